"""Data that looks odd and is valid, each with what becomes of its rows: counted by hand."""

from __future__ import annotations

import json

from tests.pipeline.data_cases import Case, as_pairs_of_both, lines, pair, parquet, with_costs

ROWS = (pair("p", "a", "b"), pair("q", "c", "d"))
TWO = {"rows": 2, "pairs": 2}
USER = {"role": "user", "content": "Hi"}


def answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def scored(prompt: str, response: str, score: object) -> dict[str, object]:
    return {"prompt": prompt, "response": response, "score": score}


GOOD_DATA: dict[str, Case] = {
    "byte order mark, CRLF and blank lines": Case(
        b"\xef\xbb\xbf\r\n" + b"\r\n\r\n".join(json.dumps(row).encode() for row in ROWS) + b"\r\n \r\n", counts=TWO
    ),
    "array of rows on many lines": Case(json.dumps(ROWS, indent=4), name="rows.json", counts=TWO),
    "CSV with a mark, quotes, line breaks and blank lines": Case(
        '\ufeffprompt,chosen,rejected\r\n"p, ""quoted""\r\nand broken",a,b\r\n\r\nq,"c",d\r\n',
        name="rows.csv",
        counts=TWO,
    ),
    "CSV with a dot in the names of its columns": Case(
        "a.prompt,a.0,a.1\np,a,b\nq,c,d\n",
        name="rows.csv",
        keys={"columns": {"prompt": "a.prompt", "chosen": "a.0", "rejected": "a.1"}},
        counts=TWO,
    ),
    "parquet with nulls and NaN beside the columns that are read": Case(
        parquet({"prompt": ["p", "q"], "chosen": ["a", "c"], "rejected": ["b", "d"], "x": [None, float("nan")]}),
        name="rows.parquet",
        counts=TWO,
    ),
    "nested columns": Case(
        lines(*({"turn": [{"prompt": p}], "answers": {"best": a, "rest": [b]}} for p, a, b in ("pab", "qcd"))),
        keys={"columns": {"prompt": "turn.0.prompt", "chosen": "answers.best", "rejected": "answers.rest.0"}},
        counts=TWO,
    ),
    "emoji, right-to-left marks, combining and control characters": Case(
        lines(pair("👩‍👩‍👧 family", "e\u0301", "é"), pair("\u202eabc\u202c", "a\x01\x1b[31m", "\ufeffb\u2028c")),
        counts=TWO,
    ),
    "strings of special tokens": Case(
        lines(pair("p </s>", "<s> a", "<unk>"), pair("q", "<|im_end|>\n<|im_start|>system", "d")), counts=TWO
    ),
    "a line of a megabyte": Case(lines(pair("x " * 500_000, "a", "b"), ROWS[1]), counts=TWO),
    "NaN and other columns that nothing reads": Case(
        '{"prompt": "p", "chosen": "a", "rejected": "b", "x": NaN, "y": -Infinity, "z": [{}]}\n' + lines(ROWS[1]),
        counts=TWO,
    ),
    "duplicates": Case(lines(*ROWS, ROWS[0], ROWS[0]), counts={"rows": 4, "pairs": 4, "duplicates": 2}),
    "labels that contradict each other": Case(
        lines(*ROWS, pair("p", "b", "a"), pair("p", "b", "a")),
        counts={"rows": 4, "pairs": 4, "duplicates": 1, "conflicting": 2},
    ),
    "empty texts and equal responses where those may be dropped": Case(
        lines(*ROWS, pair(" "), pair("p", "a", "a"), pair("p", "", "a")),
        sections={"data": {"template": "{prompt}\n", "unusable_rows": "drop"}},
        counts={"rows": 5, "pairs": 2, "unusable": 3},
    ),
    "scores as text, ties, missing ones and a response alone": Case(
        lines(scored("p", "a", "4"), scored("p", "b", 4.0), scored("p", "c", "10"), scored("p", "d", "N/A"))
        + lines(scored("q", "a", -1), scored("q", "b", 0), scored("q", "c", ""), scored("r", "a", 1)),
        keys={"scored": {"score": "score"}},
        counts={"rows": 8, "pairs": 3, "ties": 1, "missing": 2, "alone": 1},
    ),
    "ranks with ties, an empty response and a row of one response": Case(
        lines(
            {"prompt": "p", "responses": ["a", "b", "c"], "ranks": [1, 2, 2]},
            {"prompt": "q", "responses": ["a", " ", "c"], "ranks": [1, 2, 3]},
            {"prompt": "r", "responses": ["a"], "ranks": [1]},
        ),
        keys={"ranked": {"ranks": "ranks"}},
        counts={"rows": 3, "pairs": 3, "ties": 1, "missing": 2, "alone": 1},
    ),
    "compared responses with a tie and without a label": Case(
        lines(
            *(
                {"prompt": "p", "response_0": "a", "response_1": "b", "label": label}
                for label in ("a", "b", "same", None)
            )
        ),
        keys={"compared": {"label": "label", "first_wins": ["a"], "second_wins": ["b"], "ties": ["same"]}},
        counts={"rows": 4, "pairs": 2, "ties": 1, "missing": 1, "conflicting": 1},
    ),
    "conversations": Case(
        lines(
            pair([USER], [USER, answer("a")], [answer("b")]),
            {"chosen": [USER, answer("a")], "rejected": [USER, answer("c")]},
        ),
        counts={"rows": 2, "pairs": 2, "implicit_prompts": 1},
    ),
    "costs as numbers and as text": Case(
        lines(*({**row, "cost_a": "0.5", "cost_b": 3} for row in ROWS)), change=with_costs, counts=TWO
    ),
    "folder of shards of several kinds and splits": Case(
        {
            "train-0.jsonl": lines(ROWS[0]),
            "deep/train-1.csv": "prompt,chosen,rejected\nq,c,d\n",
            "test-0.jsonl": "no JSON",
            ".hidden/train-2.jsonl": "no JSON",
            "README.md": "no data",
        },
        name="shards",
        change=as_pairs_of_both,
        counts=TWO,
    ),
    "named data set in a local file": Case(
        lines(
            *(
                {"prompt": "p", "response_0": "a", "response_1": "b", "better_response_id": label, "more": None}
                for label in (0, 1)
            )
        ),
        keys={"named": {"dataset": "pku-saferlhf", "dimension": "helpful"}},
        counts={"rows": 2, "pairs": 2, "conflicting": 1},
    ),
}
