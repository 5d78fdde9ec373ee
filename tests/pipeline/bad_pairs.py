"""Rows with two responses that cannot be used: chosen and rejected, compared, conversations."""

from __future__ import annotations

from typing import Any

from tests.pipeline.data_cases import SECRET, Case, as_pairs_of_both, lines, pair

GOOD = (pair(), pair("q"))
USER, OTHER = {"role": "user", "content": f"{SECRET} hi"}, {"role": "user", "content": f"{SECRET} bye"}
ANSWER = {"role": "assistant", "content": f"{SECRET} hello"}


def compared(label: Any) -> dict[str, Any]:
    return {"prompt": SECRET, "response_0": f"{SECRET} a", "response_1": f"{SECRET} b", "label": label}


BAD_PAIRS: dict[str, Case] = {
    "values that are no text": Case(
        lines(*GOOD, pair(7, None, ["a"])),
        """
        error[MS-209]: a value has the wrong type
          --> rows.jsonl:3 (prompt)
          got: a number
          wanted: text, or a list of {role, content} messages
          help: mend or remove the row
        error[MS-209]: a value has the wrong type
          --> rows.jsonl:3 (chosen)
          got: null
          wanted: text, or a list of {role, content} messages
          help: mend or remove the row
        error[MS-209]: a value has the wrong type
          --> rows.jsonl:3 (rejected)
          got: message 1 is text (1 character)
          wanted: text, or a list of {role, content} messages
          help: mend or remove the row
        """,
    ),
    "columns that are missing": Case(
        lines(*GOOD, {"prmpt": SECRET, "chosen": SECRET, "rejected": "b"}),
        """
        error[MS-202]: column 'prompt' is missing; did you mean 'prmpt'?
          --> rows.jsonl:3 (prompt)
          got: columns chosen, prmpt, rejected
          wanted: a column 'prompt'
          help: name the right column in the sweep file (`columns`, `scored`, `ranked` or `compared`)
        """,
    ),
    "a column inside a text": Case(
        lines(*GOOD),
        """
        error[MS-202]: column 'prompt.text' is missing
          --> rows.jsonl:1 (prompt.text)
          got: text (11 characters)
          wanted: a column 'prompt.text'
          help: name the right column in the sweep file (`columns`, `scored`, `ranked` or `compared`)
        error[MS-202]: column 'prompt.text' is missing
          --> rows.jsonl:2 (prompt.text)
          got: text (1 character)
          wanted: a column 'prompt.text'
          help: name the right column in the sweep file (`columns`, `scored`, `ranked` or `compared`)
        """,
        keys={"columns": {"prompt": "prompt.text"}},
    ),
    "empty texts": Case(
        lines(*GOOD, pair(""), pair(SECRET, " \n", "\t")),
        """
        error[MS-208]: the text is empty
          --> rows.jsonl:3 (prompt)
          got: text (0 characters)
          wanted: at least one visible character
          help: fill or remove the row
        error[MS-208]: the text is empty
          --> rows.jsonl:4 (chosen)
          got: text (2 characters)
          wanted: at least one visible character
          help: fill or remove the row
        error[MS-208]: the text is empty
          --> rows.jsonl:4 (rejected)
          got: text (1 character)
          wanted: at least one visible character
          help: fill or remove the row
        """,
    ),
    "half an emoji and a NUL character": Case(
        lines(*GOOD, pair(f"{SECRET} \ud83d"), pair(SECRET, f"{SECRET}\x00")),
        """
        error[MS-210]: the text has half of a surrogate pair, which is no character
          --> rows.jsonl:3 (prompt)
          got: U+D83D at character 10
          wanted: text that can be written as UTF-8
          help: mend the text where it was cut inside an emoji, or remove the row
        error[MS-242]: the text has a NUL character
          --> rows.jsonl:4 (chosen)
          got: U+0000 at character 9
          wanted: text without NUL characters
          help: remove it: it is the sign of a broken export
        """,
    ),
    "equal responses": Case(
        lines(*GOOD, pair(SECRET, SECRET, SECRET), {"chosen": [USER, ANSWER], "rejected": [USER, ANSWER]}),
        """
        error[MS-207]: chosen and rejected are the same text
          --> rows.jsonl:3 (chosen, rejected)
          got: one text twice
          wanted: two different responses
          help: remove the row: it carries no preference
        error[MS-207]: chosen and rejected are the same text
          --> rows.jsonl:4 (chosen, rejected)
          got: one text twice
          wanted: two different responses
          help: remove the row: it carries no preference
        """,
    ),
    "labels that are not declared": Case(
        lines(compared(0), compared("tie"), compared(True), compared(f"the {SECRET} of them")),
        """
        error[MS-243]: a label is none of those that are declared
          --> rows.jsonl:2 (label)
          got: 'tie'
          wanted: first: 0; second: 1; tie: none
          help: name it in the sweep file under first_wins, second_wins or ties
        error[MS-243]: a label is none of those that are declared
          --> rows.jsonl:3 (label)
          got: True
          wanted: first: 0; second: 1; tie: none
          help: name it in the sweep file under first_wins, second_wins or ties
        error[MS-243]: a label is none of those that are declared
          --> rows.jsonl:4 (label)
          got: text (21 characters)
          wanted: first: 0; second: 1; tie: none
          help: name it in the sweep file under first_wins, second_wins or ties
        """,
        keys={"compared": {"label": "label"}},
    ),
    "messages of another schema": Case(
        lines(
            pair([{"from": "human", "value": SECRET}]),
            pair([USER, SECRET]),
            pair([{"role": "user", "content": [{"type": "text", "text": SECRET}]}]),
            pair([USER, {"role": "user", "content": ""}]),
            pair([]),
        ),
        """
        error[MS-209]: a value has the wrong type
          --> rows.jsonl:1 (prompt)
          got: message 1 with columns from, value
          wanted: text, or a list of {role, content} messages
          help: mend or remove the row
        error[MS-209]: a value has the wrong type
          --> rows.jsonl:2 (prompt)
          got: message 2 is text (9 characters)
          wanted: text, or a list of {role, content} messages
          help: mend or remove the row
        error[MS-209]: a value has the wrong type
          --> rows.jsonl:3 (prompt)
          got: message 1 with a list of 1 as content
          wanted: text, or a list of {role, content} messages
          help: mend or remove the row
        error[MS-208]: the text is empty
          --> rows.jsonl:4 (prompt, message 2)
          got: text (0 characters)
          wanted: at least one visible character
          help: fill or remove the row
        error[MS-209]: a value has the wrong type
          --> rows.jsonl:5 (prompt)
          got: an empty list
          wanted: text, or a list of {role, content} messages
          help: mend or remove the row
        """,
    ),
    "responses to other conversations": Case(
        lines(pair([USER], [OTHER, ANSWER], [ANSWER]), pair([USER], [ANSWER, USER], [USER])),
        """
        error[MS-209]: a value has the wrong type
          --> rows.jsonl:1 (chosen)
          got: 2 messages that do not begin as the prompt does
          wanted: text, or messages that repeat the prompt and end with one of the 'assistant'
          help: mend or remove the row
        error[MS-209]: a value has the wrong type
          --> rows.jsonl:2 (chosen)
          got: 2 messages, the last by 'user'
          wanted: text, or messages that repeat the prompt and end with one of the 'assistant'
          help: mend or remove the row
        error[MS-209]: a value has the wrong type
          --> rows.jsonl:2 (rejected)
          got: 1 messages, the last by 'user'
          wanted: text, or messages that repeat the prompt and end with one of the 'assistant'
          help: mend or remove the row
        """,
    ),
    "texts that do not begin alike": Case(
        lines(
            {"chosen": f"{SECRET} a", "rejected": f"another {SECRET}"},
            {"chosen": [USER, ANSWER], "rejected": [OTHER, ANSWER]},
            {"chosen": f"{SECRET} a", "rejected": [USER]},
        ),
        """
        error[MS-245]: chosen and rejected do not begin with the same prompt
          --> rows.jsonl:1 (chosen, rejected)
          got: 0 characters alike at the beginning of 11 and 17
          wanted: two texts or conversations that begin alike and end differently
          help: give a prompt column, or remove the row
        error[MS-245]: chosen and rejected do not begin with the same prompt
          --> rows.jsonl:2 (chosen, rejected)
          got: 0 messages alike at the beginning of 2 and 2
          wanted: two texts or conversations that begin alike and end differently
          help: give a prompt column, or remove the row
        error[MS-245]: chosen and rejected do not begin with the same prompt
          --> rows.jsonl:3 (chosen, rejected)
          got: a text and a list of messages
          wanted: two texts or conversations that begin alike and end differently
          help: give a prompt column, or remove the row
        """,
        keys={"columns": {"prompt": None}},
    ),
    "one prompt only": Case(
        lines(pair(), pair()),
        """
        error[MS-222]: all rows have the same prompt, so none can be held out
          --> objectives
          got: 1 prompt
          wanted: at least two prompts
          help: give more prompts
        """,
        change=as_pairs_of_both,
    ),
    "a file of two objectives": Case(
        lines(*GOOD, pair("")),
        """
        error[MS-208]: the text is empty
          --> rows.jsonl:3 (prompt)
          got: text (0 characters)
          wanted: at least one visible character
          help: fill or remove the row
        """,
        change=as_pairs_of_both,
    ),
}
