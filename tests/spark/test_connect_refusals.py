"""What is said of a Spark Connect server that cannot be used."""

import pytest

from spark_embed.errors import ConfigError
from spark_embed.spark.connect import connect


@pytest.mark.parametrize("remote", ["sc://127.0.0.1:1/;token=hush", "sc://127.0.0.1:1;token=hush"])
def test_a_token_is_in_no_error(remote):
    with pytest.raises(ConfigError, match="SPARK_REMOTE sc://127") as told:
        connect(remote)
    assert "hush" not in str(told.value)
    assert told.value.__suppress_context__
