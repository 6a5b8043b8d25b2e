"""No skew: a row that a client sends is the tensor that training has made of it, to the bit, in every format."""

import csv
import datetime
import io
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlkit.training.data import Rows, read_table
from mlkit.training.data.delimited import read_delimited
from mlkit.training.data.frame import MISSING
from mlkit.training.data.rows import UndecidedError

UTC = datetime.UTC
CHARACTERS = st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\ufeff")
WORDS = [
    "Rome",
    "Oslo",
    "São Paulo",
    "a,b",
    'say "x"',
    "007",
    "7",
    "7.0",
    "1e3",
    "true",
    "Line\r\nbreak",
    " x ",
    "日本",
    "-0",
]

# For each kind of column: its values, the kind to pass if the table does not decide it, and whether to pass it always.
VALUES = {
    "float": (st.floats(-1e30, 1e30, allow_subnormal=False), "number", False),
    "whole": (st.integers(-1000, 1000), "number", False),
    "large": (st.integers(-(2**63), 2**63 - 1), "number", True),
    "boolean": (st.booleans(), "boolean", False),
    "word": (st.sampled_from(WORDS) | st.text(CHARACTERS, max_size=5), "category", True),
    "zip": (st.from_regex(r"[0-9]{1,4}", fullmatch=True), "category", True),
    "code": (st.integers(0, 5) | st.sampled_from([0.5, 2.0, 1e22, -0.0]), "category", True),
    "id": (st.integers(2**53 - 2, 2**53 + 6), "category", True),
    "day": (st.dates(datetime.date(1700, 1, 1), datetime.date(2200, 1, 1)), "date ymd", False),
    "day first": (st.dates(datetime.date(1700, 1, 1), datetime.date(2200, 1, 1)), "date dmy", True),
    "time": (st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1)), "date ymd", False),
}
WRONG = {"number": "many", "boolean": "perhaps", "date ymd": "soon", "date dmy": "soon"}


@st.composite
def tables(draw):
    """Draw `(names, kinds of columns, rows for training, rows for the endpoint)`."""
    kinds = draw(st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=5))
    names = draw(
        st.lists(
            st.text(CHARACTERS, min_size=1, max_size=6).filter(lambda name: name == name.strip() and _is_word(name)),
            min_size=len(kinds),
            max_size=len(kinds),
            unique=True,
        )
    )
    columns = []
    for kind in kinds:
        values = VALUES[kind][0]
        training = values if draw(st.booleans()) else st.none() | values
        columns.append((training, st.none() | values))
    training = draw(st.lists(st.tuples(*[c[0] for c in columns]), min_size=2, max_size=8))
    endpoint = draw(st.lists(st.tuples(*[c[1] for c in columns]), min_size=1, max_size=6))
    return names, kinds, training, endpoint


def _is_word(text):
    """Return whether a name is not a number, nor a cell that is missing."""
    return text not in MISSING and any(character.isalpha() for character in text)


class Speller:
    """Write the values of a table as a client, or a person, may write them."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def text(self, kind, value):
        """Return a value as text, for a cell of CSV."""
        choose = self.random.choice
        if value is None:
            return choose(sorted(MISSING))
        if kind == "boolean":
            return choose([str(value), str(value).lower(), str(value).upper()])
        if kind == "day":
            return choose([value.isoformat(), f"{value.isoformat()} 00:00:00", f"{value.isoformat()}T00:00Z"])
        if kind == "day first":
            return choose([f"{value.day}.{value.month}.{value.year}", f"{value.day:02}/{value.month:02}/{value.year}"])
        if kind == "time":
            text = value.isoformat(choose("T "))
            return choose([text, f"{text}Z", f"{text}+00:00"])
        text = repr(value) if kind != "word" and kind != "zip" else value
        if kind in ("float", "whole") and self.random.random() < 0.2:
            text = f"+{text}" if text[0] != "-" else text
        return choose([text, f" {text} "])

    def json(self, kind, value):
        """Return a value of JSON."""
        if value is None and self.random.random() < 0.7:
            return None
        is_plain = isinstance(value, (int, float, str))
        return value if is_plain and self.random.random() < 0.7 else self.text(kind, value)

    def arrow(self, kind, values):
        """Return a column of Arrow, typed, or as text."""
        if kind in ("word", "zip", "day first"):
            array = pa.array([None if value is None else self.text(kind, value) for value in values], pa.string())
            return array.dictionary_encode() if self.random.random() < 0.5 else array
        if kind == "day" and self.random.random() < 0.5:
            values = [value and datetime.datetime(value.year, value.month, value.day) for value in values]
        types = {
            "code": pa.float64(),
            "float": pa.float64(),
            "time": pa.timestamp("us", self.random.choice([None, "UTC"])),
        }
        return pa.array(values, types.get(kind))

    def csv(self, rows, names=None):
        out = io.StringIO()
        is_single = len(rows[0]) == 1  # a blank line is no row, so a blank cell alone on its line needs quotes
        quoting = csv.QUOTE_ALL if is_single else self.random.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
        writer = csv.writer(out, quoting=quoting, lineterminator=self.random.choice(["\n", "\r\n"]))
        writer.writerows([names, *rows] if names else rows)
        return out.getvalue()


class Written:
    """Rows of a table, and each way to write them."""

    def __init__(self, names, kinds, rows, seed, labels=None):
        self.names = list(names)
        self.kinds = list(kinds)
        self.rows = [list(row) for row in rows]
        self.speller = Speller(seed)
        if labels:
            self.names.append("the label")
            self.kinds.append("word")
            self.rows = [[*row, label] for row, label in zip(self.rows, labels)]

    def cells(self, spell):
        return [[spell(kind, value) for kind, value in zip(self.kinds, row)] for row in self.rows]

    def shuffled(self):
        """Return the same rows with their columns in another order."""
        order = self.speller.random.sample(range(len(self.names)), len(self.names))
        rows = [[row[i] for i in order] for row in self.rows]
        seed = self.speller.random.random()
        return Written([self.names[i] for i in order], [self.kinds[i] for i in order], rows, seed)

    def csv(self, header):
        return self.speller.csv(self.cells(self.speller.text), self.names if header else None)

    def lists(self):
        return self.cells(self.speller.json)

    def records(self):
        return [dict(zip(self.names, row)) for row in self.lists()]

    def table(self):
        columns = [self.speller.arrow(kind, values) for kind, values in zip(self.kinds, zip(*self.rows))]
        return pa.table(dict(zip(self.names, columns)))

    def parquet(self):
        out = io.BytesIO()
        pq.write_table(self.table(), out)
        return out.getvalue()

    def frame(self, folder, form, text_columns):
        """Write a file and read it as training does."""
        suffix = {"parquet": ".parquet", "feather": ".feather", "lines": ".jsonl"}.get(form, ".csv")
        path = Path(folder) / f"rows{suffix}"
        if form == "parquet":
            path.write_bytes(self.parquet())
        elif form == "feather":
            pyarrow.feather.write_feather(self.table(), path)
        elif form == "lines":
            path.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in self.records()) + "\n")
        else:
            path.write_text(self.csv(form != "csv without names"), encoding="utf-8", newline="")
        if form == "csv without pyarrow":
            return read_delimited(path, text_columns, header=True, use_arrow=False)
        return read_table(path, text_columns, header=form != "csv without names")


def requests(written, optional, has_names):
    """Yield `(name, body, content type)`: the same rows in every format that the endpoint reads."""
    lists = written.lists()
    yield "CSV without names", written.csv(False), "text/csv"
    yield "lists", json.dumps(lists), "application/json"
    yield "lists in lines", "\n".join(map(json.dumps, lists)), "application/jsonlines"
    if not has_names:
        return
    yield "CSV", written.shuffled().csv(True), "text/csv; header=present"
    yield "CSV in UTF-16", written.csv(True).encode("utf-16"), "text/csv; charset=utf-16; header=present"
    yield "CSV with a byte order mark", b"\xef\xbb\xbf" + written.csv(True).encode(), "text/csv; header=present"
    records = written.shuffled().records()
    for record in records:
        for name in optional & record.keys():
            if record[name] is None and written.speller.random.random() < 0.5:
                del record[name]
    yield "records", json.dumps(records, ensure_ascii=False), "application/json"
    yield "records in lines", "\n".join(map(json.dumps, written.records())), "application/x-ndjson"
    columns = dict(zip(written.names, map(list, zip(*written.lists()))))
    yield "columns", json.dumps(columns), "application/json"
    if not {"columns", "index", "data", "inputs"} & set(written.names):  # the names of columns take precedence
        yield "split", json.dumps({"columns": written.names, "index": [0], "data": lists}), "application/json"
        yield "inputs", json.dumps({"inputs": columns}), "application/json"
    yield "Parquet", written.shuffled().parquet(), "application/vnd.apache.parquet"


def bits(inputs):
    """Return the bytes of tensors, with their types and shapes."""
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    return [(str(x.dtype), tuple(x.shape), x.numpy().tobytes()) for x in inputs]


def outcome(function):
    """Return what a function returns, or "refused" if it raises a ValueError."""
    try:
        return function()
    except ValueError as e:
        assert "row" in str(e) or "column" in str(e), e
        return "refused"


FORMS = ["csv", "csv without names", "csv without pyarrow", "parquet", "feather", "lines"]


def fit(frame, kinds, scale):
    """Fit a table, with the kinds of columns that it does not decide."""
    label = frame.names[-1]
    expected = {name: VALUES[kind][1] for name, kind in kinds.items()}
    always = {name: VALUES[kind][1] for name, kind in kinds.items() if VALUES[kind][2]}
    try:
        return Rows.fit(frame, label, kinds=always, scale=scale)
    except UndecidedError:
        return Rows.fit(frame, label, kinds=expected, scale=scale)


def check(folder, table, fit_form, form, scale, seed, counts):
    """Fit a table that was read from a file, and compare the tensors of other rows from a file and from requests."""
    names, kinds, training_rows, endpoint_rows = table
    has_names = fit_form != "csv without names"
    training = Written(names, kinds, training_rows, seed, ["yes please", "no thanks"] * len(training_rows))
    columns = dict(zip(names if has_names else map(str, range(len(names))), kinds))
    text_columns = {name for name, kind in columns.items() if VALUES[kind][1] == "category"}
    rows = fit(training.frame(folder, fit_form, text_columns), columns, scale)
    rows = Rows.from_json(json.loads(json.dumps(rows.to_json())))

    endpoint = Written(names, kinds, endpoint_rows, seed + 1)
    if random.Random(seed).random() < 0.2 and VALUES[kinds[0]][1] in WRONG:
        for row in endpoint.rows:
            row[0] = None if row[0] is None else endpoint.speller.text(kinds[0], row[0])
        endpoint.rows[-1][0] = WRONG[VALUES[kinds[0]][1]]
        endpoint.kinds[0] = "word"
    file_form = form if has_names else "csv without names"
    expected = outcome(lambda: bits(rows.encode(endpoint.frame(folder, file_form, rows.text_columns))))
    counts["tables"] += 1
    counts["refused"] += expected == "refused"
    for name, body, content_type in requests(endpoint, rows.layout.optional, has_names):
        body = body.encode() if isinstance(body, str) else body
        result = outcome(lambda body=body, kind=content_type: bits(rows.encode(rows.read(body, kind))))
        assert result == expected, (name, body, rows)
        counts["requests"] += 1
    if expected == "refused" or not has_names:
        return
    if "id" not in kinds:  # pandas rounds large integers to float64 if one is missing
        assert bits(rows.encode(endpoint.table().to_pandas())) == expected
    whole = rows.encode(endpoint.table())
    whole = whole if isinstance(whole, tuple) else (whole,)
    for i, record in enumerate(endpoint.records()):
        alone = rows.encode(rows.read(json.dumps(record), "application/json"))
        assert bits(alone) == bits(tuple(x[i : i + 1] for x in whole))


def test_requests_are_the_tensors_of_training(tmp_path):
    counts = dict.fromkeys(["tables", "requests", "refused"], 0)

    @settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(tables(), st.sampled_from(FORMS), st.sampled_from(FORMS), st.booleans(), st.integers(0, 2**32))
    def check_one(table, fit_form, form, scale, seed):
        check(tmp_path, table, fit_form, form, scale, seed, counts)

    check_one()
    print(counts)
    assert counts["requests"] > 5 * counts["tables"]
    assert 0 < counts["refused"] < counts["tables"] / 2
