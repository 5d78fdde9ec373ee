"""Files that cannot be read as rows, and what `validate` says of each."""

from __future__ import annotations

import pyarrow

from tests.pipeline.data_cases import SECRET, Case, as_texts, lines, pair, parquet

GOOD = lines(pair(), pair("q"))
NOT_UTF8 = pyarrow.array([b"p", b"\xfc", b"q"], pyarrow.binary()).view(pyarrow.string())
TEXTS = [f"{SECRET} {letter}" for letter in "abc"]

BAD_FILES: dict[str, Case] = {
    "lines in latin-1": Case(
        GOOD.encode() + f'{{"prompt": "{SECRET} grün"}}\n'.encode("latin-1") * 2,
        """
        error[MS-203]: a text is not UTF-8
          --> rows.jsonl:3
          got: byte 0xfc at offset 24
          wanted: UTF-8 text
          help: convert the file, for instance with `iconv -f latin1 -t utf-8`
        error[MS-203]: a text is not UTF-8
          --> rows.jsonl:4
          got: byte 0xfc at offset 24
          wanted: UTF-8 text
          help: convert the file, for instance with `iconv -f latin1 -t utf-8`
        """,
    ),
    "latin-1 behind a byte order mark": Case(
        b'\xef\xbb\xbf{"prompt": "\xfc swordfish"}\n' + GOOD.encode(),
        """
        error[MS-203]: a text is not UTF-8
          --> rows.jsonl:1
          got: byte 0xfc at offset 15
          wanted: UTF-8 text
          help: convert the file, for instance with `iconv -f latin1 -t utf-8`
        """,
    ),
    "UTF-16": Case(
        '{"prompt": "swordfish"}'.encode("utf-16"),
        """
        error[MS-203]: a text is not UTF-8
          --> rows.jsonl:1
          got: byte 0xff at offset 0
          wanted: UTF-8 text
          help: convert the file, for instance with `iconv -f utf-16 -t utf-8`
        """,
    ),
    "CSV in latin-1": Case(
        f"prompt,chosen,rejected\n{SECRET},grün,b\nq,{SECRET},b\nq,a,größe\n".encode("latin-1"),
        """
        error[MS-203]: a text is not UTF-8
          --> rows.csv:2
          got: byte 0xfc at offset 12
          wanted: UTF-8 text
          help: convert the file, for instance with `iconv -f latin1 -t utf-8`
        error[MS-203]: a text is not UTF-8
          --> rows.csv:4
          got: byte 0xf6 at offset 6
          wanted: UTF-8 text
          help: convert the file, for instance with `iconv -f latin1 -t utf-8`
        """,
        name="rows.csv",
    ),
    "JSON array in latin-1": Case(
        f'[{{"prompt": "{SECRET}"}},\n {{"prompt": "ü"}}]'.encode("latin-1"),
        """
        error[MS-203]: a text is not UTF-8
          --> rows.json:2
          got: byte 0xfc at offset 13
          wanted: UTF-8 text
          help: convert the file, for instance with `iconv -f latin1 -t utf-8`
        """,
        name="rows.json",
    ),
    "parquet with other bytes": Case(
        parquet({"prompt": NOT_UTF8, "chosen": TEXTS, "rejected": ["x", "y", "z"]}),
        """
        error[MS-203]: a text is not UTF-8
          --> rows.parquet:row 2 (prompt)
          got: other bytes
          wanted: UTF-8 text
          help: convert the file, for instance with `iconv -f latin1 -t utf-8`
        """,
        name="rows.parquet",
    ),
    "last line cut": Case(
        GOOD + f'{{"prompt": "{SECRET}", "chosen": "{SECRET}',
        """
        error[MS-204]: the text is not a JSON object
          --> rows.jsonl:3
          got: Unterminated string starting at character 35
          wanted: one object such as {"prompt": ..., "chosen": ..., "rejected": ...}
          help: mend or remove it
        """,
    ),
    "lines that are no objects": Case(
        GOOD + f'["{SECRET}"]\n"{SECRET}"\n7\n{SECRET}\n' + '{"prompt": "swordfish"} {"prompt": "q"}\n',
        """
        error[MS-204]: the text is not a JSON object
          --> rows.jsonl:3
          got: a list of 1
          wanted: one object such as {"prompt": ..., "chosen": ..., "rejected": ...}
          help: mend or remove it
        error[MS-204]: the text is not a JSON object
          --> rows.jsonl:4
          got: text (9 characters)
          wanted: one object such as {"prompt": ..., "chosen": ..., "rejected": ...}
          help: mend or remove it
        error[MS-204]: the text is not a JSON object
          --> rows.jsonl:5
          got: a number
          wanted: one object such as {"prompt": ..., "chosen": ..., "rejected": ...}
          help: mend or remove it
        error[MS-204]: the text is not a JSON object
          --> rows.jsonl:6
          got: Expecting value at character 1
          wanted: one object such as {"prompt": ..., "chosen": ..., "rejected": ...}
          help: mend or remove it
        error[MS-204]: the text is not a JSON object
          --> rows.jsonl:7
          got: Extra data at character 25
          wanted: one object such as {"prompt": ..., "chosen": ..., "rejected": ...}
          help: mend or remove it
        """,
    ),
    "keys that are given twice": Case(
        f'{{"prompt": "{SECRET}", "prompt": "q", "chosen": "a", "rejected": "b"}}\n' + GOOD,
        """
        error[MS-204]: the text is not a JSON object
          --> rows.jsonl:1
          got: key 'prompt' is given twice
          wanted: one object such as {"prompt": ..., "chosen": ..., "rejected": ...}
          help: mend or remove it
        """,
    ),
    "empty": Case(
        "",
        """
        error[MS-201]: the source has no rows
          --> rows.jsonl
          got: 0 rows
          wanted: at least one row
          help: give it data
        """,
    ),
    "CSV without a row": Case(
        "prompt,chosen,rejected\n",
        """
        error[MS-201]: the source has no rows
          --> rows.csv
          got: 0 rows
          wanted: at least one row
          help: give it data
        """,
        name="rows.csv",
    ),
    "texts to imitate without a row": Case(
        "[]",
        """
        error[MS-224]: sft.data has no rows
          --> rows.json
          got: 0 rows
          wanted: at least one row
          help: give it data, or leave it out
        """,
        name="rows.json",
        change=as_texts,
    ),
    "one object a line in a .json file": Case(
        GOOD,
        """
        error[MS-204]: the file is not a JSON array of rows
          --> rows.json
          got: an object at the top level
          wanted: an array such as [{"prompt": ..., "chosen": ..., "rejected": ...}, ...]
          help: mend the array; a file with one object a line is called .jsonl
        """,
        name="rows.json",
    ),
    "array that is broken after the second row": Case(
        f"[{lines(pair())}, {lines(pair('q'))}  {SECRET}]",
        """
        error[MS-204]: the file is not a JSON array of rows
          --> rows.json:3
          got: Expecting ',' delimiter at character 3
          wanted: an array such as [{"prompt": ..., "chosen": ..., "rejected": ...}, ...]
          help: mend the array; a file with one object a line is called .jsonl
        """,
        name="rows.json",
    ),
    "array with a key twice and a number": Case(
        f'[{{"prompt": "{SECRET}", "prompt": "q"}}, {lines(pair())}, 7]',
        """
        error[MS-204]: the text is not a JSON object
          --> rows.json:row 1
          got: key 'prompt' is given twice
          wanted: one object such as {"prompt": ..., "chosen": ..., "rejected": ...}
          help: mend or remove it
        error[MS-204]: the text is not a JSON object
          --> rows.json:row 3
          got: a number
          wanted: one object such as {"prompt": ..., "chosen": ..., "rejected": ...}
          help: mend or remove it
        """,
        name="rows.json",
    ),
    "CSV without a header": Case(
        f"{SECRET} asks,{SECRET} answers,{SECRET} too\n{SECRET} p,a,b\n",
        """
        error[MS-202]: column 'prompt' is missing
          --> rows.csv:2 (prompt)
          got: 3 columns, none with a plain name
          wanted: a column 'prompt'
          help: name the right column in the sweep file (`columns`, `scored`, `ranked` or `compared`)
        error[MS-202]: column 'chosen' is missing
          --> rows.csv:2 (chosen)
          got: 3 columns, none with a plain name
          wanted: a column 'chosen'
          help: name the right column in the sweep file (`columns`, `scored`, `ranked` or `compared`)
        error[MS-202]: column 'rejected' is missing
          --> rows.csv:2 (rejected)
          got: 3 columns, none with a plain name
          wanted: a column 'rejected'
          help: name the right column in the sweep file (`columns`, `scored`, `ranked` or `compared`)
        """,
        name="rows.csv",
    ),
    "CSV with a column twice": Case(
        f"prompt,chosen,chosen\n{SECRET},a,b\n",
        """
        error[MS-240]: the row of the CSV file cannot be read
          --> rows.csv:1
          got: column 'chosen' is given twice
          wanted: names that differ
          help: rename or remove one
        """,
        name="rows.csv",
    ),
    "CSV without quotes around a comma": Case(
        f"prompt,chosen,rejected\np,a,b\n{SECRET}, you,a,b\nq,a\n",
        """
        error[MS-240]: the row of the CSV file cannot be read
          --> rows.csv:3
          got: 4 fields
          wanted: 3, as the first line has
          help: put quotes around texts with commas or line breaks, and double the quotes inside them
        error[MS-240]: the row of the CSV file cannot be read
          --> rows.csv:4
          got: 2 fields
          wanted: 3, as the first line has
          help: put quotes around texts with commas or line breaks, and double the quotes inside them
        """,
        name="rows.csv",
    ),
    "CSV with a quote that is never closed": Case(
        f'prompt,chosen,rejected\np,a,b\n"{SECRET},a,b\nq,a,b\n',
        """
        error[MS-240]: the row of the CSV file cannot be read
          --> rows.csv:3
          got: unexpected end of data
          wanted: quotes that are closed
          help: put quotes around texts with commas or line breaks, and double the quotes inside them
        """,
        name="rows.csv",
    ),
    "parquet that was not copied whole": Case(
        parquet({"prompt": TEXTS, "chosen": TEXTS, "rejected": TEXTS})[:-20],
        """
        error[MS-205]: the parquet file cannot be read
          --> rows.parquet
          got: 'Parquet magic bytes not found in footer. Either the file is corrupted or this …
          wanted: an Apache Parquet file
          help: write it again, or check that it was copied whole
        """,
        name="rows.parquet",
    ),
    "folder of which one file is broken and one has a bad row": Case(
        {"a.parquet": SECRET, "b.jsonl": GOOD, "c.csv": f"prompt,chosen,rejected\n{SECRET},a,\n"},
        """
        error[MS-205]: the parquet file cannot be read
          --> shards/a.parquet
          got: 'Parquet magic bytes not found in footer. Either the file is corrupted or this …
          wanted: an Apache Parquet file
          help: write it again, or check that it was copied whole
        error[MS-208]: the text is empty
          --> shards/c.csv:2 (rejected)
          got: text (0 characters)
          wanted: at least one visible character
          help: fill or remove the row
        """,
        name="shards",
    ),
}
