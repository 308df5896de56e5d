"""Questions that gallery.js puts to the drawing process: asked and looked after by two functions the browser calls.

Knows nothing about torch. Each kind of question has a function that turns what the browser sent into a payload of ours
(ids become files here, never earlier) and one that turns the answer into what the artist reads.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sdlora.errors import UserError
from sdlora.jobs import desk
from sdlora.jobs.worker import ensure_worker
from sdlora.ui import words
from sdlora.ui.validation import an_id, guarded_server


@dataclass(frozen=True)
class Question:
    """payload: data of the browser -> payload of jobs/tasks.py. told: (the answer) -> what the browser is shown."""

    payload: Callable[[object], dict]
    told: Callable[[desk.Answer], dict]


def asking(questions: dict[str, Question]) -> list[Callable]:
    """The two server functions of a widget that may ask these kinds of questions."""

    @guarded_server
    def ask(data: object) -> dict:
        """[kind, data] -> {"waiting": id of the question}."""
        kind, rest = data if isinstance(data, list) and len(data) == 2 else (None, None)
        if not isinstance(kind, str) or kind not in questions:
            raise UserError(words.NOT_UNDERSTOOD)
        question = desk.submit(kind, questions[kind].payload(rest))
        ensure_worker()
        return {"waiting": question}

    @guarded_server
    def answered(data: object) -> dict:
        """The id of a question -> {"waiting": id} or what it came to."""
        seen = desk.view(an_id(data, "question"))
        if seen.state == "waiting":
            return {"waiting": seen.id}
        if seen.state == "failed":
            raise UserError(seen.problem, seen.hint)
        if seen.kind not in questions:
            raise UserError(words.NOT_UNDERSTOOD)
        return questions[seen.kind].told(seen)

    return [ask, answered]
