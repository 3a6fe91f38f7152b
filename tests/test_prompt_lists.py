"""Prompt files in the columns of the literature."""

import pytest

from unlearn.errors import BadData, BadValue
from unlearn.ops.prompt_lists import Asked, read_prompts


def read(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "prompts.csv"
    path.write_bytes(text.encode(encoding))
    return read_prompts(path)


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("prompt\na cat\n", Asked("a cat", None, None, "", "0")),
        ("prompt,sd_seed,sd_guidance_scale\na cat,12,7.5\n", Asked("a cat", 12, 7.5, "", "0")),
        ("case_number,prompt,evaluation_seed\n77,a cat,12\n", Asked("a cat", 12, None, "", "77")),
        (",prompt,evaluation_seed,guidance,classes\n0,a cat,12,9,cat\n", Asked("a cat", 12, 9.0, "cat", "0")),
        ("prompt,label,sd_seed\na cat,cat,\n", Asked("a cat", None, None, "cat", "0")),
        ("prompt,evaluation_seed,sd_seed\na cat,,5\n", Asked("a cat", 5, None, "", "0")),
        ("prompt,sd_seed\n\"a cat, a dog\nand \"\"more\"\"\",5\n", Asked('a cat, a dog\nand "more"', 5, None, "", "0")),
        ("\ufeffprompt , sd_seed\r\na cat,5\r\n", Asked("a cat", 5, None, "", "0")),
        ("prompt,sd_seed\na cat\n", Asked("a cat", None, None, "", "0")),
    ],
)  # fmt: skip
def test_columns_of_the_literature(tmp_path, text, asked):
    assert read(tmp_path, text) == [asked]


def test_lines_stay_in_order(tmp_path):
    found = read(tmp_path, "prompt,sd_seed\n" + "".join(f"p{k},{9 - k}\n" for k in range(5)))
    assert [(a.prompt, a.seed, a.case) for a in found] == [(f"p{k}", 9 - k, str(k)) for k in range(5)]


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        (
            "text,seed\na,1\n",
            BadValue,
            ["no column 'prompt'", "'text', 'seed'", "evaluation_seed", "case_number"],
        ),
        ("", BadData, ["holds no prompt"]),
        ("prompt,sd_seed\n", BadData, ["holds no prompt"]),
        ("prompt,sd_seed\na,1\nb,x\n", BadValue, ["line 3", "sd_seed must be a number", "'x'"]),
        ("prompt,sd_seed\na,-1\n", BadValue, ["line 2", "at least 0", "-1"]),
        ("prompt,guidance\na,much\n", BadValue, ["line 2", "guidance must be a number", "'much'"]),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, text, error, words):
    with pytest.raises(error) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_what_is_no_text_is_refused(tmp_path):
    with pytest.raises(BadValue, match="give a CSV file in UTF-8"):
        read(tmp_path, "prompt\nä\n", "latin-1")
    with pytest.raises(BadValue, match="cannot read prompts from"):
        read_prompts(tmp_path / "absent.csv")
