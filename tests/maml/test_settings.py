"""Bad settings of a learner, and bad tasks for it, are named."""

import pytest

from fewshot_lib.maml import MAML

from .helpers import both_engines, mlp, tasks


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner_steps": -1}, "`inner_steps` is -1: use a whole number, 0 or more"),
        ({"inner_steps": 2.0}, r"`inner_steps` is 2\.0: use a whole number"),
        ({"inner_steps": "3"}, "`inner_steps` is '3'"),
        ({"inner_lr": -0.1}, r"`inner_lr` is -0\.1: use a number, 0 or more"),
        ({"inner_lr": float("nan")}, "`inner_lr` is nan"),
        ({"inner_lr": "0.1"}, "`inner_lr` is '0.1'"),
        ({"rates": "each"}, "`rates` is 'each': use one of 'fixed', 'per_parameter', 'per_tensor_per_step'"),
        ({"engine": "map"}, "`engine` is 'map': use one of 'vmap', 'loop'"),
        ({"chunk_size": 0}, "`chunk_size` is 0: use a whole number, 1 or more"),
        ({"chunk_size": 1.5}, r"`chunk_size` is 1\.5"),
        ({"adapt": "tail"}, "`adapt` names 'tail', which fits no trainable parameter: .* encoder, head"),
        ({"adapt": ("head", "enc")}, "`adapt` names 'enc'"),
        ({"adapt": ()}, r"`adapt` is \(\): this leaves nothing trainable to adapt"),
        (
            {"per_step_norm": True},
            "`per_step_norm` is True: the model has no norms.BatchNorm: see norms.with",
        ),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        MAML(mlp(), **options)


def test_a_model_that_is_all_frozen_has_nothing_to_adapt():
    with pytest.raises(ValueError, match="`adapt` is None: this leaves nothing trainable"):
        MAML(mlp().requires_grad_(False))


def test_a_setting_that_does_not_exist_is_refused():
    with pytest.raises(TypeError, match="chunks"):
        MAML(mlp(), chunks=2)


@both_engines
def test_bad_tasks_are_named(engine):
    learner, t = MAML(mlp(), engine=engine), tasks(4)
    for short in range(3):
        parts = [leaf[:1] if i == short else leaf for i, leaf in enumerate(t[:3])]
        with pytest.raises(ValueError, match=r"`tasks` is \[1, 2\]: supports, labels and queries have diff"):
            learner(*parts)
    for at in ([], [-1]):
        with pytest.raises(ValueError, match=r"`at` is \[.*\]: give whole numbers of steps, 0 or more"):
            learner.run(*t[:3], at)
