"""Rows that cannot be used in the other forms of data, and in sources that hold no pairs."""

from __future__ import annotations

from typing import Any

from modpo.data.named import NAMED_DATASETS
from tests.pipeline.data_cases import SECRET, Case, as_prompts, as_scores, as_texts, lines, pair, with_costs

NAMES = ", ".join(dataset.name for dataset in NAMED_DATASETS)


def scored(response: str, score: Any) -> dict[str, Any]:
    return {"prompt": SECRET, "response": f"{SECRET} {response}", "score": score}


BAD_FORMS: dict[str, Case] = {
    "scores that are no numbers": Case(
        lines(scored("a", 1), scored("b", float("nan")), scored("c", "1e999"), scored("d", "five"), scored("e", True))
        + lines(scored("f", f"{SECRET} and more"), scored("g", [5])),
        """
        error[MS-209]: a value has the wrong type
          --> rows.jsonl:2 (score)
          got: nan
          wanted: a finite number
          help: mend or remove the row
        error[MS-209]: a value has the wrong type
          --> rows.jsonl:3 (score)
          got: '1e999'
          wanted: a finite number
          help: mend or remove the row
        error[MS-209]: a value has the wrong type
          --> rows.jsonl:4 (score)
          got: 'five'
          wanted: a number
          help: mend or remove the row
        error[MS-209]: a value has the wrong type
          --> rows.jsonl:5 (score)
          got: True
          wanted: a number
          help: mend or remove the row
        error[MS-209]: a value has the wrong type
          --> rows.jsonl:6 (score)
          got: text (18 characters)
          wanted: a number
          help: mend or remove the row
        error[MS-209]: a value has the wrong type
          --> rows.jsonl:7 (score)
          got: a list of 1
          wanted: a number
          help: mend or remove the row
        """,
        keys={"scored": {"score": "score"}},
    ),
    "a fault in each column of a scored row": Case(
        lines(scored("a", 1), {"prompt": "", "response": None, "scor": SECRET}),
        """
        error[MS-208]: the text is empty
          --> rows.jsonl:2 (prompt)
          got: text (0 characters)
          wanted: at least one visible character
          help: fill or remove the row
        error[MS-209]: a value has the wrong type
          --> rows.jsonl:2 (response)
          got: null
          wanted: text, or a list of {role, content} messages
          help: mend or remove the row
        error[MS-202]: column 'score' is missing; did you mean 'scor'?
          --> rows.jsonl:2 (score)
          got: columns prompt, response, scor
          wanted: a column 'score'
          help: name the right column in the sweep file (`columns`, `scored`, `ranked` or `compared`)
        """,
        keys={"scored": {"score": "score"}},
    ),
    "costs that some pairs lack": Case(
        lines(pair(cost_a=1, cost_b="0.5"), pair("q", cost_a=1, cost_b=None), pair("r", cost_a="dear", cost_b=2)),
        """
        error[MS-241]: the reward of 'brief' stands in some rows and not in others
          --> rows.jsonl:2 (cost_a, cost_b)
          got: no finite number for 2 of 3 pairs, also at rows.jsonl:3
          wanted: a number beside both responses of every pair
          help: fill in the columns, or remove the rows that lack them
        """,
        change=with_costs,
    ),
    "ranks that do not fit the responses": Case(
        lines(
            {"prompt": "p", "responses": [SECRET, "b"], "ranks": [1]},
            {"prompt": "p", "responses": SECRET, "ranks": [1]},
            {"prompt": "p", "responses": [SECRET, "b"], "ranks": None},
            {"prompt": "p", "responses": [SECRET, 3], "ranks": [1, "second"]},
        ),
        """
        error[MS-244]: a ranked row has not one rank or score for each response
          --> rows.jsonl:1 (ranks)
          got: 1 values for 2 responses
          wanted: a list of 2
          help: mend or remove the row
        error[MS-209]: a value has the wrong type
          --> rows.jsonl:2 (responses)
          got: text (9 characters)
          wanted: a list of responses
          help: mend or remove the row
        error[MS-244]: a ranked row has not one rank or score for each response
          --> rows.jsonl:3 (ranks)
          got: null for 2 responses
          wanted: a list of 2
          help: mend or remove the row
        error[MS-209]: a value has the wrong type
          --> rows.jsonl:4 (responses, item 2)
          got: a number
          wanted: text, or a list of {role, content} messages
          help: mend or remove the row
        error[MS-209]: a value has the wrong type
          --> rows.jsonl:4 (ranks, item 2)
          got: 'second'
          wanted: a number
          help: mend or remove the row
        """,
        keys={"ranked": {"ranks": "ranks"}},
    ),
    "responses of which one has no text": Case(
        lines({"prompt": "p", "answers": [{"text": SECRET, "score": 1}, {"txt": SECRET, "score": 2}]}),
        """
        error[MS-202]: column 'answers.text' is missing
          --> rows.jsonl:1 (answers.text)
          got: item 2 of 2 with columns score, txt
          wanted: a column 'answers.text'
          help: name the right column in the sweep file (`columns`, `scored`, `ranked` or `compared`)
        """,
        keys={"ranked": {"responses": "answers.text", "scores": "answers.score"}},
    ),
    "a named data set that is none": Case(
        lines({"chosen": SECRET}),
        f"""
        error[MS-270]: no named data set of this name; did you mean 'hh-rlhf'?
          --> objectives.1.pairs.named.dataset
          got: 'hh-rlfh'
          wanted: one of {NAMES}
          help: take one of them, or name the columns of your rows in another form of `pairs`
        """,
        keys={"named": {"dataset": "hh-rlfh", "dimension": "helpful"}},
    ),
    "a dimension that is none": Case(
        lines({"chosen": SECRET}),
        """
        error[MS-271]: hh-rlhf has no such dimension; did you mean 'harmless'?
          --> objectives.1.pairs.named.dimension
          got: 'harmles'
          wanted: one of helpful, harmless
          help: take one of them; docs/data.md says what each means
        """,
        keys={"named": {"dataset": "hh-rlhf", "dimension": "harmles"}},
    ),
    "a limit that means nothing for a named data set": Case(
        lines({"chosen": SECRET}),
        """
        error[MS-272]: min_gap has no meaning for this dimension of hh-rlhf
          --> objectives.1.pairs.named.min_gap
          got: its labels only say which response is preferred
          wanted: pairs that are formed from scores, or labels that are grades
          help: leave it out
        """,
        keys={"named": {"dataset": "hh-rlhf", "dimension": "helpful", "min_gap": 1}},
    ),
    "rows of another data set than the named one": Case(
        lines({"text": SECRET}, {"chosen": [SECRET], "rejected": SECRET}),
        """
        error[MS-274]: the row has not the columns of the named data set
          --> rows.jsonl:1 (chosen)
          got: columns text
          wanted: a column 'chosen' as docs/data.md describes it
          help: check that path, subset and data_dir hold the named data set, or name the columns yourself
        error[MS-274]: the row has not the columns of the named data set
          --> rows.jsonl:2 (chosen)
          got: a list of 1
          wanted: a column 'chosen' as docs/data.md describes it
          help: check that path, subset and data_dir hold the named data set, or name the columns yourself
        """,
        keys={"named": {"dataset": "hh-rlhf", "dimension": "helpful"}},
    ),
    "rows of a named data set without a preference": Case(
        lines({"chosen": f"\n\nHuman: {SECRET}\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}),
        """
        error[MS-273]: the two transcripts differ before the last assistant turn
          --> rows.jsonl:1 (chosen, rejected)
          got: a row that compares nothing
          wanted: a preference between two responses to one prompt
          help: set data.unusable_rows to drop: such rows are then left out and counted
        """,
        keys={"named": {"dataset": "hh-rlhf", "dimension": "helpful"}},
    ),
    "texts to imitate": Case(
        lines({"prompt": "", "response": 3}, {"prompt": SECRET}),
        """
        error[MS-208]: the text is empty
          --> rows.jsonl:1 (prompt)
          got: text (0 characters)
          wanted: at least one visible character
          help: fill or remove the row
        error[MS-209]: a value has the wrong type
          --> rows.jsonl:1 (response)
          got: a number
          wanted: text, or a list of {role, content} messages
          help: mend or remove the row
        error[MS-202]: column 'response' is missing
          --> rows.jsonl:2 (response)
          got: columns prompt
          wanted: a column 'response'
          help: name the right column in the sweep file (`columns`, `scored`, `ranked` or `compared`)
        """,
        change=as_texts,
    ),
    "prompts to label": Case(
        lines({"prompt": SECRET}, {"prompt": None}, {"question": SECRET}),
        """
        error[MS-209]: a value has the wrong type
          --> rows.jsonl:2 (prompt)
          got: null
          wanted: text, or a list of {role, content} messages
          help: mend or remove the row
        error[MS-202]: column 'prompt' is missing
          --> rows.jsonl:3 (prompt)
          got: columns question
          wanted: a column 'prompt'
          help: name the right column in the sweep file (`columns`, `scored`, `ranked` or `compared`)
        """,
        change=as_prompts,
    ),
    "numbers for a reward model": Case(
        lines(scored("a", 1), scored("b", None), scored("c", "N/A")),
        """
        error[MS-209]: a value has the wrong type
          --> rows.jsonl:2 (score)
          got: a missing number
          wanted: a number
          help: mend or remove the row
        error[MS-209]: a value has the wrong type
          --> rows.jsonl:3 (score)
          got: a missing number
          wanted: a number
          help: mend or remove the row
        """,
        change=as_scores,
    ),
    "ties only": Case(
        lines(scored("a", 1), scored("b", 1), {**scored("c", 1), "prompt": "q"}, scored("d", None)),
        """
        error[MS-221]: objective 'brief' has no pairs left
          --> objectives (brief).pairs
          got: 4 rows, 1 ties, 1 missing, 1 alone
          wanted: at least one pair
          help: lower min_gap, or give it data
        """,
        keys={"scored": {"score": "score"}},
    ),
}
