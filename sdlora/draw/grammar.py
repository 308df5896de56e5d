"""The grammar of a prompt: `(word:1.2)`, `[word]` and BREAK act; the grammar of other programs is named.

Knows nothing about torch, LoRAs or files. The grammar is A1111's: modules/prompt_parser.py (parse_prompt_attention, its prompt
editing and AND) and modules/extra_networks.py (`<name:...>`).
"""

import re
from collections.abc import Callable
from itertools import groupby

from sdlora.errors import UserError, distinct_decimals
from sdlora.storage import clean_text

TOKEN = re.compile(r"\\([\\()\[\]])|([(\[])|(:\s*([+-]?[.\d]+)\s*\))|([)\]])|([^\\()\[\]:]+|[\\:])")
BREAK = re.compile(r"\bBREAK\b")
DIVIDERS = {  # words that divide a prompt, and into what
    re.compile(r"\bAND(?:_[A-Z\d]+)*\b"): "several pictures that are mixed",
    re.compile(r"\bADD(?:BASE|COL|COMM|ROW)\b"): "regions of the picture",
}
CAPITALS = re.compile("|".join([BREAK.pattern, *(form.pattern for form in DIVIDERS)]))
LAST_WEIGHT = re.compile(r" ?: ?[+-]?[.\d]{1,10}$")
HEAD = r"<(?=[a-z_])([\w-]+)(?:\[[^\[\]<>]*\])?(\s*):"  # as of <lora:x:1>, SwarmUI's <fromto[0.5]:a,b>
TAG_PIECE = re.compile(HEAD + "|[^<>]+|[<>]", re.IGNORECASE)
OPEN_TAG = re.compile(HEAD + r"\s*[^\s<>,]+", re.IGNORECASE)
PIECE = re.compile(r"\\.|[\[\]():|]|[^\\\[\]():|]+|\\", re.DOTALL)
NUMBER = re.compile(r"\s*[+-]?(?:\d+[.,]?\d*|[.,]\d+)\s*")
TAGS = {"lora": "LoRAs are named in the prompt of a picture only", "lyco": "LoRAs are named in the prompt of a picture only",
        "hypernet": "sdlora does not use hypernetworks"}
OTHERS = {  # grammar of other programs that is drawn as words. What one pattern matches the next ones do not see
    "a choice of Dynamic Prompts or NovelAI's emphasis": re.compile(r"(?<!\\)\{[^{}]{0,500}\}"),
    "a wildcard": re.compile(r"(?<!\w)__[\w/*.-]{1,100}__(?!\w)"),
    "an embedding": re.compile(r"\bembedding:[\w./-]{1,100}|<[a-z][\w-]{1,60}>", re.IGNORECASE),
    "InvokeAI's grammar": re.compile(r"(?<=[\w)\"'])\.(?:and|blend|swap)\([^()]{0,200}\)?|\bwithLora\([^()]{0,200}\)?"),
    "a region of ComfyUI's": re.compile(r"\b(?:I?MASK|AREA|FEATHER|COUPLE|FILL)\([^()]{0,200}\)?"),
    "an option of Midjourney or of a command line": re.compile(
        r"(?<!\S)--(?:[b-hj-z]|no|style|niji|tile|raw|turbo|draft|profile|[sco]ref|negative_prompt|[a-z][\w-]{1,30}(?=\s[+-]?[.\d]))"
        r"(?![\w-])(?:\s+[+-]?[\d.]{1,12}(?::[\d.]{1,6})?)?|(?<!\S)[–—](?:ar|v|s|c|q|w|niji|chaos|stylize)\s+\d[\d.:]*", re.I),
    "a weight with a decimal comma or wide signs": re.compile(
        r"(?<!\\)(?!\([^()（）：]*:\s*[+-]?\d?\.\d*\s*\))[(（][^()（）]{1,300}[:：]\s*[+-]?\d?[.,，]\d{1,3}\s*[)）]"),
    "a weight as InvokeAI writes it": re.compile(
        r"(?:(?<!\w)\w{1,60}(?:\+{2,9}|-{2,9}(?![\w-]))|(?<!\\)\)(?:\d\.\d{1,4}|\+{1,9}|-{1,9}(?![\w-])))(?=[\s,.)]|$)"),
    "a weight as NovelAI writes it": re.compile(
        r"(?<![\w.:])[+-]?(?:\d{1,3}(?:\.\d{1,3})?|\.\d{1,3})::(?!\s*$)(?:(?:[^:]|:(?!:)){1,300}::)?"),
    "a weight as Midjourney writes it": re.compile(
        r"(?:(?<!\w)\w{1,60}|[)\"'])::(?=\s|$|[+-]?\.?\d)(?!\s*[+-]?[.\d]+\s*\))[+-]?[\d.]{0,6}"),
}
FACTORS = {"(": 1.1, "[": 1 / 1.1}
PLAIN_BRACKETS = r"Write (word:1.2), or \( for a plain bracket."
HEAVIEST, MAX_CHARACTERS, QUOTED = 10.0, 10_000, 60
Fragment = tuple[str, float]


def parse(prompt: str) -> list[list[Fragment]]:
    """Return for each part of a prompt between BREAKs its fragments (text, weight); neighbours of one weight are one fragment.

    A bracket that is never closed reaches to the end of its part; one that was never opened is text, and so is `\\(`.
    Raises UserError for a weight outside 0..10, and for more than MAX_CHARACTERS characters.
    """
    if len(prompt) > MAX_CHARACTERS:
        raise UserError(f"The prompt is too long: {len(prompt)} characters, at most {MAX_CHARACTERS}.", "Make it shorter.")
    first, *more = BREAK.split(simplified(prompt)[0])
    if not more:
        return [weighted(first)]
    parts = [part.strip() for part in (first, *more)]
    return [weighted(part) for part in (parts if parts[-1] else parts[:-1])]  # nothing follows a BREAK at the end


def weighted(part: str) -> list[Fragment]:
    """Return the fragments of a prompt without BREAK."""
    texts: list[str] = []
    weights: list[float] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}  # where open brackets begin

    def close(bracket: str, factor: float) -> None:
        begin = opened[bracket].pop()
        weights[begin:] = [weight * factor for weight in weights[begin:]]

    for found in TOKEN.finditer(part):
        escaped, opening, number_end, number, closing, plain = found.groups()
        bracket = "[" if closing == "]" else "("
        if opening:
            opened[opening].append(len(texts))
        elif number_end and opened["("]:
            close("(", as_weight(number))
        elif closing and opened[bracket]:
            close(bracket, FACTORS[bracket])
        else:
            texts.append(escaped or number_end or closing or plain)
            weights.append(1.0)
    for bracket, places in opened.items():
        while places:
            close(bracket, FACTORS[bracket])
    pairs = zip(texts, (checked(weight) for weight in weights), strict=True)
    return [("".join(text for text, _ in group), weight) for weight, group in groupby(pairs, lambda pair: pair[1])]


def as_weight(number: str) -> float:
    try:
        return float(number)
    except ValueError as error:
        raise UserError(f"{number!r} is no weight for a word in a prompt.", PLAIN_BRACKETS) from error


def checked(weight: float) -> float:
    """Return a weight without the rounding errors of its factors. Raises UserError outside 0..10."""
    if not 0 <= weight <= HEAVIEST:
        shown, _ = distinct_decimals(weight, HEAVIEST if weight > 0 else 0)
        raise UserError(f"A word in the prompt has the weight {shown}; it must be from 0 to {HEAVIEST:g}.", PLAIN_BRACKETS)
    return round(weight, 6)


def literal(text: str) -> str:
    """Return plain text as a prompt: `parse` gives it back as it is, and a text encoder reads the same tokens.

    CLIP's tokenizer ignores case, and a space between "<" and a word.
    """
    text = CAPITALS.sub(lambda found: found[0].lower(), text)
    return re.sub(r"([\\()\[\]])", r"\\\1", re.sub(f"(?={HEAD})<", "< ", text, flags=re.IGNORECASE))


def notes(*prompts: str) -> list[str]:
    """Return a sentence for everything in these prompts that does not act as in other programs; each once."""
    return list(dict.fromkeys(note for prompt in prompts for note in simplified(prompt[:MAX_CHARACTERS])[1]))


def problem(prompt: str) -> UserError | None:
    """Return why a prompt cannot be drawn, None when it can; whether it has too many tokens only the base knows."""
    try:
        parse(prompt)
    except UserError as error:
        return UserError(f'The prompt "{clean_text(prompt, QUOTED)}" cannot be drawn. {error.message}', error.hint)
    return None


def simplified(prompt: str) -> tuple[str, list[str]]:
    """Return the prompt without what sdlora does not do, and a sentence about each: tags, prompt editing, alternation, AND."""
    remarks: list[str] = []
    prompt = without_tags(prompt, remarks.append)
    remarks += [f"{clean_text(found[0], QUOTED)} is never closed with >: it is drawn as words."
             for found in list(OPEN_TAG.finditer(prompt))[:3]]
    prompt = without_editing(prompt, lambda group, drawn: remarks.append(
        f"{clean_text(group, QUOTED)} changes words while the picture is drawn, which sdlora does not do: "
        f'"{clean_text(drawn, QUOTED)}" is drawn from the first step to the last.'))
    prompt = without_and(prompt, remarks.append)
    unseen = prompt
    for kind, form in OTHERS.items():
        hint = " Write (word:1.2) for a weight." if kind.startswith("a weight") else ""
        remarks += [f"{clean_text(found[0], QUOTED)} looks like {kind}, which sdlora does not do: it is drawn as words.{hint}"
                    for found in list(form.finditer(unseen))[:8]]
        unseen = form.sub(" ", unseen)
    return prompt, remarks


def without_tags(prompt: str, remark: Callable[[str], object]) -> str:
    """Return the prompt without `<name:...>`, the inner one first where one stands in another."""
    made: list[str] = []
    opened: list[tuple[int, re.Match[str]]] = []
    for found in TAG_PIECE.finditer(prompt):
        made.append(found[0])
        if found[1]:
            opened.append((len(made) - 1, found))
        elif found[0] == ">" and opened:
            begin, head = opened.pop()
            tag, known = "".join(made[begin:]), TAGS.get(head[1].lower())
            del made[begin:]
            why = known or "sdlora does not know what it means"
            if known and head[2]:
                why = f"write it as {clean_text(tag.replace(head[2], '', 1), QUOTED)}"
            remark(f"{clean_text(tag, QUOTED)} is left out: {why}.")
    return "".join(made)


def without_and(prompt: str, remark: Callable[[str], object]) -> str:
    """Return the parts between AND and the like as one prompt, without their weights; a part of negative weight is left out."""
    for form, into in DIVIDERS.items():
        dividers = dict.fromkeys(form.findall(prompt))
        for divider in dividers:
            remark(f"{divider} divides a prompt into {into}, which sdlora does not do: all of it is one prompt.")
        kept = []
        for part in form.split(prompt) if dividers else ():
            part = part.strip(", \n")
            weight = LAST_WEIGHT.search(part) if into != "regions of the picture" else None
            text = part[:weight.start()] if weight else part
            if weight and "-" in weight[0]:
                remark(f'"{clean_text(text, QUOTED)}" is left out: its weight is below 0.')
            else:
                kept += [text] if text else []
        prompt = ", ".join(kept) if dividers else prompt
    return prompt


def without_editing(prompt: str, remark: Callable[[str, str], object]) -> str:
    """Return the prompt with the first words of `[from:to:when]`, `[to:when]`, `[from::when]` and `[a|b]` in their place.

    remark(the group, the words of it that are drawn).
    """
    made: list[str] = []  # finished groups are one entry, so ":" and "|" within them do not divide the group around them
    opened: list[int] = []
    for piece in PIECE.findall(prompt):
        made.append(piece)
        if piece in "[(":
            opened.append(len(made) - 1)
        elif piece in "])" and opened:
            begin = opened.pop()
            while opened and made[begin] != ("[" if piece == "]" else "("):
                begin = opened.pop()
            group = made[begin:]
            made[begin:] = [drawn_words(group, remark) if made[begin] == "[" and piece == "]" else "".join(group)]
    return "".join(made)


def drawn_words(group: list[str], remark: Callable[[str, str], object]) -> str:
    """Return the words of one group in square brackets that are drawn; the group itself where it only weakens its words."""
    inside = group[1:-1]
    whole = "".join(group)
    divider = "|" if "|" in inside else ":"
    parts = ["".join(pieces) for divides, pieces in groupby(inside, divider.__eq__) if not divides]
    if divider == ":" and not (1 < len(parts) <= 3 and NUMBER.fullmatch(parts[-1])):
        return whole
    drawn = next((part.strip() for part in (parts if divider == "|" else parts[:-1]) if part.strip()), "")
    remark(whole, drawn)
    return drawn
