"""Faults S07, S08, S13: after a run in which everything went wrong, nothing anywhere says who the patients are.

Every text that the project does not publish holds a canary, in all headers and in the words of an exception, and so do
the credentials. The search goes through stdout and stderr, Ray's session logs, the names and the content of all objects
of the output, and what is exported from it.
"""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from pipelines.export import export_nifti
from pipelines.store import open_store
from tests.faults import ward
from tests.faults.cohort import uid_of
from tests.faults.conftest import Troubles
from tests.faults.sinks import CANARIES, holding, laid_open
from tests.faults.troubled import SECRET, played

pytestmark = [pytest.mark.ray, pytest.mark.s3, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def sinks(troubles: Troubles, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Everything the run has left anywhere, by where it is."""
    found = {"stdout": troubles.out.encode(), "stderr": troubles.err.encode()}
    for entry in troubles.output.list():
        found.update(laid_open(f"object {entry.key}", troubles.output.get(entry.key)))
    exported = tmp_path_factory.mktemp("exported")
    list(export_nifti(troubles.output, exported))
    for folder in (troubles.cluster, exported):
        for file in folder.rglob("*"):
            if stat.S_ISREG(file.lstat().st_mode):
                found.update(laid_open(f"file {file.relative_to(folder)}", file.read_bytes()))
    return found


def test_the_canaries_were_there_to_be_found_and_the_search_finds_what_is_there(
    troubles: Troubles, sinks: dict[str, bytes]
) -> None:
    source = open_store(troubles.output.uri.removesuffix("output") + "source", troubles.output.endpoint_url)
    carriers = [entry.key for entry in source.list() if ward.MARK.encode() in source.get(entry.key)]
    assert len(carriers) > 60 and any(key.startswith(f"s{ward.EVERYWHERE:04}/") for key in carriers)
    for word in (ward.MARK, ward.CANARY_DATE):
        assert word.encode() in source.get(f"s{ward.EVERYWHERE:04}/slice0000.dcm")
    assert 4 in played(troubles.notes)  # the exception with a secret in its words was raised
    assert SECRET.startswith(ward.MARK)
    assert any("rows of object tables/series" in name for name in holding(sinks, uid_of(ward.FINE)))
    assert any(name.startswith("file ray/session") and "raylet" in name for name in sinks)
    assert any(name.startswith("unpacked file") for name in sinks)
    assert b"series" in sinks["stderr"]


@pytest.mark.parametrize("canary", CANARIES[:2])
def test_S08_no_word_of_a_patient_is_in_any_output_log_or_name(sinks: dict[str, bytes], canary: str) -> None:
    assert holding(sinks, canary) == []


@pytest.mark.parametrize("canary", CANARIES[2:])
def test_S07_no_credential_is_in_any_output_log_or_name(sinks: dict[str, bytes], canary: str) -> None:
    assert holding(sinks, canary) == []


def test_S13_workers_leave_no_core_and_their_folder_is_closed_to_others(troubles: Troubles) -> None:
    limits = {note.read_text() for note in troubles.notes.glob("start-*")}
    assert limits == {"0"}
    assert stat.S_IMODE(troubles.cluster.stat().st_mode) == 0o700
    assert not list(Path(troubles.cluster).rglob("core*"))
