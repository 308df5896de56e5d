"""Questions that the page's widgets put to the drawing process, by two functions the browser calls: `ask` and `answered`.

Loads no torch. Each kind of question has a function that turns what the browser sent into a payload of ours (ids become
files here, never earlier) and one that turns the answer into what the artist reads.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sdlora.errors import UserError
from sdlora.jobs.questions import Answer, submit, view
from sdlora.jobs.worker import ensure_worker
from sdlora.ui import words
from sdlora.ui.validation import an_id, guarded_server


@dataclass(frozen=True)
class Question:
    """payload: data of the browser -> payload for jobs/questions.py. shown: the answer -> data for the browser."""

    payload: Callable[[object], dict]
    shown: Callable[[Answer], dict]


def server_functions(questions: dict[str, Question]) -> list[Callable]:
    """Return the two server functions of a widget that may ask these kinds of questions."""

    @guarded_server
    def ask(data: object) -> dict:
        """[kind, data] -> {"waiting": id of the question}."""
        kind, rest = data if isinstance(data, list) and len(data) == 2 else (None, None)
        if not isinstance(kind, str) or kind not in questions:
            raise UserError(words.NOT_UNDERSTOOD)
        question = submit(kind, questions[kind].payload(rest))
        ensure_worker()
        return {"waiting": question}

    @guarded_server
    def answered(data: object) -> dict:
        """Return {"waiting": id} for the id of a question, or what it came to."""
        answer = view(an_id(data, "question"))
        if answer.state == "waiting":
            return {"waiting": answer.id}
        if answer.state == "failed":
            raise UserError(answer.problem, answer.hint)
        if answer.kind not in questions:
            raise UserError(words.NOT_UNDERSTOOD)
        return questions[answer.kind].shown(answer)

    return [ask, answered]
