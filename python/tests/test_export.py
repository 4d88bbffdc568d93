"""A model's layers, exported, are what qconvc computes."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import qconv
from qconv.export import export, main
from support import assert_close, make_layer, qconvc


def make_net():
    return nn.Sequential(
        nn.Conv1d(3, 8, 5, padding="same"),
        qconv.QConv1d(8, 8, 3, padding=[2, 0], dilation=2, gradient_cancellation_threshold=1.0),
        nn.Sequential(
            qconv.QConv1d(
                8, 12, 4, 2, 3, input_quantization="swishsign", weight_quantization="approxsign", pad_value=0.5
            ),
            nn.BatchNorm1d(12),
        ),
        qconv.QConv1d(12, 8, 3, input_quantization=qconv.InputDoReFa(4), weight_quantization=qconv.WeightDoReFa(2)),
        qconv.QConv1d_NoAct(8, 6, 3, padding="same", groups=2),
        qconv.QConv1d(
            6,
            6,
            3,
            input_quantization="progressive_sign",
            weight_quantization=qconv.Scheduled(["identity", "sign"], factor=0.25),
        ),
    )


def test_round_trip_through_qconvc(tmp_path):
    net = make_net().train()
    path = export(net, tmp_path / "net")
    assert net.training and net[5].activation.activation_function.training
    layers = json.loads(path.read_text())["layers"]
    modules = [m for m in net.eval().modules() if isinstance(m, nn.Conv1d)]
    assert [layer["name"] for layer in layers] == ["0", "1", "2_0", "3", "4", "5"] and len(modules) == 6
    for layer, module in zip(layers, modules):
        name = layer["name"]
        x = torch.randn(2, module.in_channels, 30)
        np.save(tmp_path / "x.npy", x.numpy())
        command = [qconvc(), "run", "--layer", path, "--name", name, "--input", tmp_path / "x.npy"]
        command += ["--weight", path.parent / "weights" / f"{name}_weight.npy", "--output", tmp_path / "y.npy"]
        if module.bias is not None:
            command += ["--bias", path.parent / "weights" / f"{name}_bias.npy"]
        subprocess.run(command, check=True, capture_output=True)
        with torch.no_grad():
            expected = module(x)
        y = torch.from_numpy(np.load(tmp_path / "y.npy"))
        if isinstance(module, qconv.QConv1d_NoAct):
            assert torch.equal(y, expected), name
        else:
            assert_close(y, expected)


def test_descriptions_make_the_same_layers(tmp_path):
    net = make_net().eval()
    path = export(net, tmp_path)
    for layer in json.loads(path.read_text())["layers"]:
        if layer["layer"] == "conv1d":
            continue
        weight = torch.from_numpy(np.load(tmp_path / "weights" / f"{layer['name']}_weight.npy"))
        module = net.get_submodule(layer["name"].replace("_", "."))
        x = torch.randn(2, module.in_channels, 30)
        assert torch.equal(make_layer(layer, weight)(x), module(x))


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Sequential(nn.Linear(2, 2)), "no 1-D convolution"),
        (nn.Sequential(qconv.QConv1d(2, 2, 3, input_quantization=nn.Tanh())), "0: its input quantizer Tanh"),
        (nn.Sequential(nn.Conv1d(2, 2, 3, padding=1, padding_mode="reflect")), "padding_mode is 'reflect'"),
        (nn.ModuleDict({"a_b": nn.Conv1d(2, 2, 3), "a": nn.ModuleDict({"b": nn.Conv1d(2, 2, 3)})}), "'a_b'"),
    ],
)
def test_errors(tmp_path, net, message):
    with pytest.raises(ValueError, match=message):
        export(net, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_command(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_nets.py").write_text(
        "import qconv\nfrom torch import nn\n\ndef make():\n    return nn.Sequential(qconv.QConv1d(4, 4, 3))\n"
    )
    net = nn.Sequential(qconv.QConv1d(4, 4, 3))
    torch.save(net.state_dict(), tmp_path / "net.pt")
    monkeypatch.chdir(tmp_path)
    assert main(["my_nets:make", "net.pt", "-o", "out"]) == 0
    assert "1 layer: 0" in capsys.readouterr().out
    assert np.array_equal(np.load(tmp_path / "out" / "weights" / "0_weight.npy"), net[0].weight.detach().numpy())
    for arguments, message in (
        (["my_nets", "net.pt", "-o", "out"], "must be module:factory"),
        (["my_nets:missing", "net.pt", "-o", "out"], "missing"),
        (["my_nets:make", "other.pt", "-o", "out"], "other.pt"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda state: {"state_dict": state, "hyper_parameters": argparse.Namespace(rate=1)}, ""),
        (lambda state: {"model_state_dict": state, "folder": Path("runs"), "epoch": 3}, ""),
        (lambda state: {"model": state}, ""),
        (lambda state: {f"module.{name}": value for name, value in state.items()}, ""),
        (lambda state: {"state_dict": {f"net._orig_mod.{name}": value for name, value in state.items()}}, ""),
        (lambda state: {**state, "extra": torch.ones(1)}, "has extra, unknown to it"),
        (lambda state: {f"_{name}": value for name, value in state.items()}, "lacks 0.weight and has _0.weight"),
        (lambda state: {name: value[:2] for name, value in state.items()}, "shape [2, 4, 3], not [4, 4, 3]"),
        (lambda state: [state], "holds a list"),
        (lambda state: {"weights": state, "epoch": 3}, "it has weights, epoch"),
        (lambda state: nn.Sequential(qconv.QConv1d(4, 4, 3)), "--unpickle"),
    ],
)
def test_checkpoints_of_trainers(wrap, message, tmp_path, monkeypatch, capsys):
    net = nn.Sequential(qconv.QConv1d(4, 4, 3))
    monkeypatch.setattr(sys.modules[main.__module__], "_make_model", lambda factory: nn.Sequential(qconv.QConv1d(4, 4, 3)))
    monkeypatch.chdir(tmp_path)
    torch.save(wrap(net.state_dict()), "net.pt")
    assert main(["net:make", "net.pt", "-o", "out"]) == (2 if message else 0)
    said = capsys.readouterr()
    assert message in said.err and (said.out + said.err).count("\n") == 1
    if not message:
        assert np.array_equal(np.load(tmp_path / "out" / "weights" / "0_weight.npy"), net[0].weight.detach().numpy())


@pytest.mark.parametrize("contents", [b"", b"text", b"PK\x03\x04 cut off", b"\x80\x02}q"])
def test_files_that_are_no_checkpoints(contents, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.modules[main.__module__], "_make_model", lambda factory: nn.Linear(1, 1))
    (tmp_path / "net.pt").write_bytes(contents)
    assert main(["net:make", str(tmp_path / "net.pt"), "-o", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "no checkpoint that torch.load can read" in said and said.count("\n") == 1


def test_whole_models_on_request(tmp_path, monkeypatch):
    net = nn.Sequential(qconv.QConv1d(4, 4, 3))
    monkeypatch.setattr(sys.modules[main.__module__], "_make_model", lambda factory: nn.Sequential(qconv.QConv1d(4, 4, 3)))
    torch.save(net, tmp_path / "net.pt")
    assert main(["net:make", str(tmp_path / "net.pt"), "-o", str(tmp_path / "out"), "--unpickle"]) == 0
    assert np.array_equal(np.load(tmp_path / "out" / "weights" / "0_weight.npy"), net[0].weight.detach().numpy())


def test_module_is_a_command():
    result = subprocess.run([sys.executable, "-m", "qconv.export", "--help"], capture_output=True, text=True)
    assert result.returncode == 0 and "checkpoint" in result.stdout
