"""Files on this machine or in S3, by one set of functions; knows neither data sets nor models nor Spark.

A path is what paths.py makes of an option; below it paths are joined with '/'. Who has one in hand calls
these functions: store.py has what can be done to one, contents.py what a file holds. local.py and
s3/store.py do it.
"""

from spark_embed.storage.contents import create_text as create_text
from spark_embed.storage.contents import download as download
from spark_embed.storage.contents import parquet_input as parquet_input
from spark_embed.storage.contents import read_json as read_json
from spark_embed.storage.contents import read_text as read_text
from spark_embed.storage.contents import replace_text as replace_text
from spark_embed.storage.contents import upload as upload
from spark_embed.storage.contents import write_json as write_json
from spark_embed.storage.contents import write_text as write_text
from spark_embed.storage.files import StoredFile as StoredFile
from spark_embed.storage.files import file_version as file_version
from spark_embed.storage.files import is_disk_full as is_disk_full
from spark_embed.storage.files import no_space_error as no_space_error
from spark_embed.storage.files import write_error as write_error
from spark_embed.storage.lfs import LFS_POINTER as LFS_POINTER
from spark_embed.storage.lfs import is_lfs_pointer as is_lfs_pointer
from spark_embed.storage.parquet import rows_per_batch as rows_per_batch
from spark_embed.storage.paths import folder_path as folder_path
from spark_embed.storage.paths import hadoop_path as hadoop_path
from spark_embed.storage.paths import is_below as is_below
from spark_embed.storage.paths import is_inside as is_inside
from spark_embed.storage.paths import is_s3 as is_s3
from spark_embed.storage.paths import is_shown as is_shown
from spark_embed.storage.paths import joined_path as joined_path
from spark_embed.storage.paths import local_path as local_path
from spark_embed.storage.paths import parent_folder as parent_folder
from spark_embed.storage.paths import shown_path as shown_path
from spark_embed.storage.paths import spark_path as spark_path
from spark_embed.storage.paths import spark_uri as spark_uri
from spark_embed.storage.paths import split_s3 as split_s3
from spark_embed.storage.paths import uri_scheme as uri_scheme
from spark_embed.storage.s3.client import Traffic as Traffic
from spark_embed.storage.s3.client import traffic as traffic
from spark_embed.storage.s3.errors import is_store_failure as is_store_failure
from spark_embed.storage.s3.java_errors import root_cause as root_cause
from spark_embed.storage.s3.java_errors import store_failure as store_failure
from spark_embed.storage.s3.patience import impatient as impatient
from spark_embed.storage.s3.routes import s3_endpoint as s3_endpoint
from spark_embed.storage.s3.routes import s3_region as s3_region
from spark_embed.storage.s3.rust_options import rust_options as rust_options
from spark_embed.storage.store import check_writable as check_writable
from spark_embed.storage.store import copy_tree as copy_tree
from spark_embed.storage.store import delete as delete
from spark_embed.storage.store import delete_file as delete_file
from spark_embed.storage.store import delete_uploads as delete_uploads
from spark_embed.storage.store import existing_folder as existing_folder
from spark_embed.storage.store import exists as exists
from spark_embed.storage.store import free_bytes as free_bytes
from spark_embed.storage.store import is_file as is_file
from spark_embed.storage.store import is_folder as is_folder
from spark_embed.storage.store import list_files as list_files
from spark_embed.storage.store import list_folder as list_folder
from spark_embed.storage.store import list_names as list_names
from spark_embed.storage.store import make_folder as make_folder
from spark_embed.storage.store import make_way as make_way
from spark_embed.storage.store import open_binary as open_binary
from spark_embed.storage.store import put_back as put_back
from spark_embed.storage.store import replaced_file as replaced_file
from spark_embed.storage.store import stat as stat
from spark_embed.storage.store import undone as undone
from spark_embed.storage.store import undone_if_empty as undone_if_empty
from spark_embed.storage.store import walk_files as walk_files
