"""Starting weights: the recipe's distribution, the same from the same seed."""

import torch

from ctsam3d.network import build
from ctsam3d.network.initialisation import STD, initialise


def test_weights_have_the_recipes_spread_and_norms_start_neutral():
    model = build("nano")
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 7.0)
    initialise(model, seed=1)
    for name, trained in model.named_parameters():
        parameter = trained.detach()
        assert not (parameter == 7).any(), name
        if parameter.ndim > 1:
            # six standard errors of a mean over so many draws
            assert abs(float(parameter.mean())) < 6 * STD / parameter.numel() ** 0.5, name
            if parameter.numel() > 5000:
                assert abs(float(parameter.std()) - STD) < 0.001, name
        elif name.endswith("bias"):
            assert not parameter.any(), name
        else:
            assert (parameter == (0.25 if ".adn.A." in name else 1)).all(), name


def test_a_seed_decides_the_weights_and_leaves_the_global_random_state_alone():
    models = [build("nano") for _ in range(3)]
    before = torch.random.get_rng_state()
    for model, seed in zip(models, (4, 4, 5), strict=True):
        initialise(model, seed)
    assert torch.equal(before, torch.random.get_rng_state())
    first, same, other = (model.state_dict() for model in models)
    assert all(torch.equal(first[name], same[name]) for name in first)
    name = "image_encoder.stage1.0.attn.q.weight"
    assert not torch.equal(first[name], other[name])
