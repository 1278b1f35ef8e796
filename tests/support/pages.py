"""What a browser would find in a page: its tags, what it would load, its text and its tables."""

import base64
import io
from html.parser import HTMLParser

from PIL import Image


class Seen(HTMLParser):
    """`addresses` is what is loaded or led to, `tables` their cells by row."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes = set(), set()
        self.addresses, self.tables, self._texts, self._inside = [], [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "action")]
        self._inside = tag
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "style":
            return
        self._texts.append(data)
        if self._inside in ("td", "th"):
            self.tables[-1][-1][-1] += data

    def table(self, head):
        """The first table that has a column of this name."""
        return next(table for table in self.tables if head in table[0])

    @property
    def text(self):
        return " ".join(self._texts)

    @property
    def kinds(self):
        """All that is more than text."""
        return self.tags, self.attributes, [one.partition(",")[0] for one in self.addresses]

    @property
    def pictures(self):
        """The images in the page, opened."""
        jpegs = [one for one in self.addresses if one.startswith("data:image/jpeg;base64,")]
        return [Image.open(io.BytesIO(base64.b64decode(one.partition(",")[2]))) for one in jpegs]


def seen(html):
    found = Seen()
    found.feed(html)
    found.close()
    return found
