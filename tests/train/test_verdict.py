"""What a run came to: which checkpoint to take, and why."""

from sdlora.train.events import Validated
from sdlora.train.verdict import recommended, sentences, suggested


def found(*rows):
    """Validated of (step, style, content, copying)."""
    return [Validated(step, 0.1, style, content, copying, 0, "cat.png") for step, style, content, copying in rows]


START = (0, 0.0, 1.0, 1.0)


def test_the_first_checkpoint_with_all_of_the_style_is_suggested():
    run = found(START, (100, 50, 1, 1), (200, 82, 1, 1), (300, 84, 1, 1))
    assert suggested(run) == 200
    assert sentences(run)[-1] == "Suggested checkpoint: step 200. It has as much of the style (82 of 100) after fewer steps."
    assert sentences(run)[0].startswith("The style arrived: 84 of 100")
    assert sentences(found(START, (100, 50, 1, 1), (200, 84, 1, 1)))[-1] == "Suggested checkpoint: the last one."


def test_prompts_that_turn_to_mush_are_never_just_done():
    run = found(START, (100, 50, 0.9, 1), (200, 84, 0.5, 1))
    told = sentences(run)
    assert suggested(run) == 100 and told[1].startswith("Prompts turned to mush: the base recognises 50%")
    assert told[-1] == "Suggested checkpoint: step 100. There prompts work better (90%)."
    all_mush = found(START, (100, 50, 0.6, 1), (200, 84, 0.5, 1))
    assert suggested(all_mush) == 100, "the one that keeps most"


def test_a_copied_picture_is_named():
    run = found(START, (100, 70, 1, 0.9), (200, 90, 1, 0.2))
    assert suggested(run) == 100 and "A sample looks like cat.png: the style begins to copy." in sentences(run)
    assert sentences(run)[-1] == "Suggested checkpoint: step 100. There nothing looks like cat.png."


def test_a_style_that_did_not_arrive_says_what_to_do():
    assert "hardly arrived: 0 of 100" in sentences(found(START, (100, -9, 1, 1)))[0]
    assert "More steps" in sentences(found(START, (100, 40, 1, 1)))[0]


def test_what_was_not_measured_is_not_judged():
    assert suggested(found(START)) is None and sentences(found(START)) == []
    assert "Whether the style arrived could not be measured" in sentences(found(START, (9, None, 1, None)))[0]
    assert "mush" in sentences(found(START, (9, None, 0.2, None)))[1], "content is judged without a style too"
    assert "could not be measured" in sentences(found((0, 0, None, 1), (100, 80, None, 1)))[1]


def test_another_strength_is_recommended_only_when_it_is_clearly_better():
    def of(low, full, high):
        return dict(zip((0.8, 1.0, 1.2), found((9, *low), (9, *full), (9, *high)), strict=True))

    assert recommended(of((60, 1, 1), (80, 1, 1), (82, 1, 1))) == 1, "hardly more style"
    assert recommended(of((60, 1, 1), (70, 1, 1), (82, 1, 1))) == 1.2
    assert recommended(of((60, 1, 1), (70, 1, 1), (82, 0.8, 1))) == 1, "prompts would be lost"
    assert recommended(of((60, 1, 1), (70, 1, 1), (82, 1, 0.3))) == 1, "pictures would be copied"
    assert recommended(of((60, 0.9, 1), (80, 0.6, 1), (90, 0.2, 1))) == 0.8, "prompts work there"
    assert recommended(of((60, 0.5, 1), (80, 0.6, 1), (90, 0.2, 1))) == 1 and recommended({1.0: found(START)[0]}) == 1
    assert "Recommended strength: 0.8. It keeps the prompts." in sentences(found(START, (9, 80, 0.6, 1)), 0.8)
