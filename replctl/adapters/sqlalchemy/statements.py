"""Whether a statement may write: of an expression, before a node is chosen; of SQL, on the primary.

Both err on the side of writing. An error there costs a read from the primary, or one query after a commit;
an error on the other side would be a stale read. What is not known to be read-only counts as a write.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from sqlalchemy import CompoundSelect, Select, TextClause
from sqlalchemy.sql import visitors
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.functions import FunctionElement

# Words that stand before a parenthesis and do not write: SQL's own, types, and functions in common use.
_WORDS = """
    all and any array as between by case cube distinct else except exists filter from group grouping having
    ilike in intersect interval is join lateral like limit materialized not offset on or order over partition
    rollup row select sets similar some then to union using values when where with within

    bit char character decimal numeric time timestamp timestamptz varbit varchar varying

    abs age array_agg array_append array_cat array_length array_position array_remove array_to_string
    ascii avg bit_length bool_and bool_or btrim cardinality cast ceil ceiling char_length chr coalesce concat
    concat_ws corr count cume_dist current_date current_setting current_time current_timestamp date date_bin
    date_part date_trunc decode dense_rank div encode every exp extract first_value floor format
    gen_random_uuid generate_series greatest hashtext initcap isfinite json_agg json_array_elements
    json_array_length json_build_array json_build_object json_object_agg jsonb_agg jsonb_array_elements
    jsonb_array_elements_text jsonb_array_length jsonb_build_array jsonb_build_object jsonb_extract_path
    jsonb_extract_path_text jsonb_object_agg jsonb_path_exists jsonb_path_query jsonb_set jsonb_typeof lag
    last_value lead least left length ln localtimestamp log lower lpad ltrim make_date make_interval max md5
    min mod mode now nth_value ntile nullif octet_length overlay percent_rank percentile_cont
    percentile_disc pg_is_in_recovery pg_typeof phraseto_tsquery plainto_tsquery position power random rank
    regexp_match regexp_matches regexp_replace regexp_split_to_array repeat replace reverse right round
    row_number row_to_json rpad rtrim sign similarity split_part sqrt starts_with statement_timestamp stddev
    string_agg string_to_array strpos substr substring sum to_char to_date to_json to_jsonb to_number
    to_timestamp to_tsquery to_tsvector translate trim trunc ts_headline ts_rank unnest upper variance
    version websearch_to_tsquery width_bucket word_similarity
    """
_HARMLESS = frozenset(_WORDS.split())
_READS = re.compile(
    r"\s*(?:select|with|values|table|show|set|reset|savepoint|release|rollback)\b", re.IGNORECASE
)
_WRITES = re.compile(
    r"\b(?:insert|update|delete|merge|into|call|copy|share|nextval|setval|do|alter|create|drop|truncate)\b|\"\s*\(",
    re.IGNORECASE,
)
_CALLED = re.compile(r"([\w$]+)\s*\(")


KNOWN_MAX = 4096
_known: dict[Any, bool] = {}


@lru_cache(maxsize=KNOWN_MAX)
def may_write(sql: str) -> bool:
    """Whether this SQL may write. True for what is not known: functions of one's own, DDL, anything odd."""
    if _READS.match(sql) is None or _WRITES.search(sql) is not None:
        return True
    return any(word.lower() not in _HARMLESS for word in _CALLED.findall(sql))


def only_reads(clause: Any) -> bool:
    """Whether an expression only reads, whatever it is made of.

    Not so: text() anywhere, a lock, DML in a CTE, functions that are not known.
    """
    if not isinstance(clause, Select | CompoundSelect):
        return False
    # SQLAlchemy makes this key once for a statement, and needs it anyway to find what it compiles to.
    key = clause._generate_cache_key()
    if key is None:
        return _only_reads(clause)
    found = _known.get(key.key)
    if found is None:
        if len(_known) >= KNOWN_MAX:
            _known.clear()
        found = _known[key.key] = _only_reads(clause)
    return found


def _only_reads(clause: Any) -> bool:
    for part in visitors.iterate(clause):
        if isinstance(part, TextClause | UpdateBase):
            return False
        if isinstance(part, Select | CompoundSelect):
            if locks(part):
                return False
        elif isinstance(part, FunctionElement) and getattr(part, "name", "").lower() not in _HARMLESS:
            return False
    return True


def locks(clause: Any) -> bool:
    """Whether this SELECT itself is one FOR UPDATE or its like."""
    return getattr(clause, "_for_update_arg", None) is not None
