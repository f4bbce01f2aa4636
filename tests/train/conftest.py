"""What tests of whole runs share: what a run leaves, how it is stopped, and data that change under it."""

import pytest

from uniemox.config.training import PretrainConfig
from uniemox.manifests.table import manifest_from_columns, write_manifest
from uniemox.train.engine import Engine
from uniemox.train.events import Progress
from uniemox.train.finetune import finetune
from uniemox.train.journal import read_journal
from uniemox.train.pretrain import pretrain
from uniemox.train.state import find_state, load_state


@pytest.fixture(scope="session")
def weights_in():
    """The bytes of a model folder's weights."""
    return lambda folder: {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


@pytest.fixture(scope="session")
def state_in():
    """The last state of a run."""
    return lambda out: load_state(find_state(out / "state").path)


@pytest.fixture(scope="session")
def lines_of():
    """The journal of a run without the time that it took."""

    def read(out):
        lines = read_journal(out / "metrics.jsonl")
        of_time = ("images_per_second", "data_wait")
        return [{name: value for name, value in line.items() if name not in of_time} for line in lines]

    return read


@pytest.fixture(scope="session")
def stop_at():
    """Make an observer that stops the run in the middle of what follows a step."""

    def make(step, observer=lambda _: None, action=None):
        def hear(event):
            observer(event)
            if isinstance(event, Progress) and event.step == step:
                if action is None:
                    raise KeyboardInterrupt
                action()

        return hear

    return make


@pytest.fixture
def first_weights(monkeypatch):
    """Start a run, and give the weights that it starts from instead of training."""

    def start(config, observer=lambda _: None):
        found = {}

        def look(engine):
            found.update({name: tensor.clone() for name, tensor in engine.bare.state_dict().items()})
            raise KeyboardInterrupt

        run = pretrain if isinstance(config, PretrainConfig) else finetune
        monkeypatch.setattr(Engine, "run", look)
        with pytest.raises(KeyboardInterrupt):
            run(config, observer)
        return found

    return start


@pytest.fixture(scope="session")
def rewrite():
    """Write the manifest of a painted data set again with other columns."""

    def write(painted, **changes):
        manifest = painted.manifest
        rows = [manifest.row(index) for index in range(len(manifest))]
        columns = {
            "paths": [row.path.relative_to(painted.root).as_posix() for row in rows],
            "splits": [row.split for row in rows],
            "labels": [row.label for row in rows],
            "attributes": [row.attributes for row in rows],
            "people": [row.boxes for row in rows],
        }
        write_manifest(manifest_from_columns(manifest.facts, **columns | changes), painted.path)

    return write
