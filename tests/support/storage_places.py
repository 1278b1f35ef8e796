"""A folder on the disk and one in S3, as tests fill them and look into them, past the code under test."""

from pathlib import Path


class OnDisk:
    """A folder, and what is in it."""

    def __init__(self, path: Path) -> None:
        self.path = str(path / "in")
        (path / "in").mkdir()

    def put(self, name: str, text: str | None = None) -> None:
        path = Path(self.path, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name if text is None else text)

    def content(self) -> dict[str, str]:
        files = (path for path in Path(self.path).rglob("*") if path.is_file())
        return {path.relative_to(self.path).as_posix(): path.read_text() for path in files}


class InS3:
    """The same in a bucket."""

    def __init__(self, server, bucket: str) -> None:
        self.path = f"s3a://{bucket}/in"
        self._server, self._bucket = server, bucket

    def put(self, name: str, text: str | None = None) -> None:
        body = (name if text is None else text).encode()
        self._server.direct.put_object(Bucket=self._bucket, Key=f"in/{name}", Body=body)

    def content(self) -> dict[str, str]:
        return {name: data.decode() for name, data in self._server.content(self._bucket, "in/").items()}
