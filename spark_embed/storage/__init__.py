"""Files on this machine or in S3, for driver and workers, by one set of functions.

A path is what paths.py makes of an option; below it paths are joined with '/'. Who has one in hand calls
these functions: lookup.py, contents.py and moves.py say what they do and raise. Behind them store.py is the
seam, and local.py and s3.py are the two ways of doing each.
"""

from spark_embed.storage.contents import (
    create_text,
    download,
    open_binary,
    parquet_input,
    read_json,
    read_text,
    replaced_file,
    write_json,
    write_text,
)
from spark_embed.storage.files import (
    StoredFile,
    file_version,
    format_bytes,
    is_disk_full,
    no_space_error,
    write_error,
)
from spark_embed.storage.lookup import (
    check_writable,
    exists,
    free_bytes,
    is_file,
    is_folder,
    list_files,
    list_folder,
    list_names,
    stat,
    walk_files,
)
from spark_embed.storage.moves import (
    copy_tree,
    delete,
    delete_file,
    delete_uploads,
    make_folder,
    make_way,
    put_back,
    undone,
    undone_if_empty,
)
from spark_embed.storage.paths import (
    folder_path,
    is_below,
    is_inside,
    is_s3,
    is_shown,
    joined_path,
    local_path,
    parent_folder,
    spark_path,
    spark_scheme,
    spark_uri,
    split_s3,
    uri_scheme,
)
from spark_embed.storage.s3_client import traffic
from spark_embed.storage.s3_errors import is_store_failure, store_failure
from spark_embed.storage.s3_patience import impatient
from spark_embed.storage.s3_ways import s3_endpoint, s3_region

__all__ = [
    "StoredFile",
    "check_writable",
    "copy_tree",
    "create_text",
    "delete",
    "delete_file",
    "delete_uploads",
    "download",
    "exists",
    "file_version",
    "folder_path",
    "format_bytes",
    "free_bytes",
    "impatient",
    "is_below",
    "is_disk_full",
    "is_file",
    "is_folder",
    "is_inside",
    "is_s3",
    "is_shown",
    "is_store_failure",
    "joined_path",
    "list_files",
    "list_folder",
    "list_names",
    "local_path",
    "make_folder",
    "make_way",
    "no_space_error",
    "open_binary",
    "parent_folder",
    "parquet_input",
    "put_back",
    "read_json",
    "read_text",
    "replaced_file",
    "s3_endpoint",
    "s3_region",
    "spark_path",
    "spark_scheme",
    "spark_uri",
    "split_s3",
    "stat",
    "store_failure",
    "traffic",
    "undone",
    "undone_if_empty",
    "uri_scheme",
    "walk_files",
    "write_error",
    "write_json",
    "write_text",
]
