"""Faults D08-D10, D13-D17: pixels that claim too much, do not decode, or end or stall whatever decodes them."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames, get_frame
from pydicom.filereader import dcmread
from pydicom.pixels import decoders
from pydicom.pixels.decoders.base import Decoder

from ctsam3d.imaging.dicom import Limits, read_series
from ctsam3d.imaging.dicom_header import read_header
from ctsam3d.outcome import Reason, Rejected, Status
from pipelines import driver
from pipelines.cohort.discover import discover
from pipelines.cohort.fetch import Decoding
from pipelines.cohort.load import load
from pipelines.cohort.work import Work
from pipelines.config import RunConfig
from pipelines.faults import UsageError
from pipelines.reasons import Failure
from pipelines.sandbox import Sandbox, SandboxFailure, memory_for
from pipelines.store import open_store
from tests.builders import SYNTAXES, ct_series, hu_of
from tests.faults.bad_child import marked
from tests.faults.outcome import Objects, corpus, read, reason_of, refused, setting, told_nothing
from tests.threshold import ThresholdSource

pytestmark = pytest.mark.usefixtures("nothing_told")

SMALL: dict[str, Any] = {"shape": (16, 18)}
LARGER: dict[str, Any] = {"shape": (34, 36)}  # the encoder of JPEG 2000 takes nothing smaller
COMPRESSED = ["rle", "jpeg_lossless", "jpeg_ls", "jpeg_2000"]
MEMORY = memory_for(1 << 20, 1 << 16)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    box = Sandbox(60.0)
    yield box
    box.close()


def streams(change: Callable[[bytes], bytes]) -> Callable[[Dataset, int], None]:
    """Put other bytes in place of the compressed stream of every slice."""

    def edit(ds: Dataset, i: int) -> None:
        stream = get_frame(ds.PixelData, 0, number_of_frames=1)
        ds.PixelData = encapsulate([change(stream)])

    return edit


def peak_after(sandbox: Sandbox, objects: Objects) -> tuple[str, int]:
    """What becomes of the objects in the sandbox, and by how many bytes the child's greatest peak grew."""
    sound = ct_series(**SMALL)
    sandbox.read_series(sound, Limits(), MEMORY)
    before = sandbox.peak_memory_bytes
    with pytest.raises((Rejected, SandboxFailure)) as caught:
        sandbox.read_series(objects, Limits(), 8 << 30)
    told_nothing(caught.value)
    sandbox.read_series(sound, Limits(), MEMORY)
    reason = caught.value.reason if isinstance(caught.value, Rejected) else caught.value.failure
    return reason, sandbox.peak_memory_bytes - before


@pytest.mark.parametrize("syntax", ["explicit", "rle", "jpeg_ls"])
@pytest.mark.parametrize(
    "claim", [{"Rows": 65535, "Columns": 65535}, {"NumberOfFrames": 2**31 - 1}], ids=["size", "frames"]
)
def test_D08_a_size_out_of_bounds_is_refused_from_the_header(claim: dict[str, int], syntax: str) -> None:
    def edit(ds: Dataset, i: int) -> None:
        for keyword, value in claim.items():
            setattr(ds, keyword, value)

    objects = ct_series(syntax=syntax, edit=edit, **SMALL)
    header = read_header(objects[0][1])
    assert header is not None and header.pixel_bytes > Limits().max_pixel_bytes
    tracemalloc.start()
    reason = reason_of(objects)
    assert reason is Reason.TOO_LARGE
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_D08_an_enhanced_object_of_endless_frames_is_refused_from_the_header() -> None:
    edit = setting("NumberOfFrames", 2**31 - 1)
    assert reason_of(ct_series(multi_frame=True, edit=edit, **SMALL)) is Reason.TOO_LARGE


def test_D09_a_deflated_object_is_refused_before_it_is_inflated(sandbox: Sandbox) -> None:
    """Changed: TRANSFER_SYNTAX_UNSUPPORTED for every deflated object, a bomb or not.

    No scanner sends CT deflated; a bound on what it inflates to would be code for nobody.
    """
    plain = ct_series(**SMALL)[0][1]
    start = read_header(plain)
    assert start is not None
    syntax, deflated = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99"
    at = plain.index(syntax)
    meta = plain[: at - 2] + len(deflated).to_bytes(2, "little") + deflated
    meta += plain[at + len(syntax) : start.dataset_offset]
    body = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = [body.compress(plain[start.dataset_offset :])]
    packed += [body.compress(bytes(1 << 20)) for _ in range(400)]
    bomb = b"".join([meta, *packed, body.flush()])
    assert len(bomb) < 1 << 20  # and 400 MB inflated
    reason, grown = peak_after(sandbox, [("bomb.dcm", bomb)])
    assert (reason, grown < 16 << 20) == (Reason.TRANSFER_SYNTAX_UNSUPPORTED, True)
    assert reason_of([("x.dcm", corpus("image_dfl.dcm"))]) is Reason.TRANSFER_SYNTAX_UNSUPPORTED


def test_D10_run_lengths_of_fifty_megabytes_in_one_small_slice(sandbox: Sandbox) -> None:
    """Changed: PIXEL_DECODE; TOO_LARGE is said of what a header claims, here the stream contradicts the header."""
    segment = b"\x81\x00" * 200_000
    header = struct.pack("<16I", 2, 64, 64 + len(segment), *[0] * 13)
    objects = ct_series(syntax="rle", edit=streams(lambda _: header + segment + segment), **SMALL)
    reason, grown = peak_after(sandbox, objects)
    assert 128 * 200_000 * 2 > 50e6  # bytes it would decode to, from a slice of 576
    assert (reason, grown < 24 << 20) == (Reason.PIXEL_DECODE, True)


def claiming(syntax: str, rows: int, columns: int) -> Callable[[bytes], bytes]:
    """The stream with another size in its own header."""

    def change(stream: bytes) -> bytes:
        changed = bytearray(stream)
        if syntax == "jpeg_2000":
            at = changed.index(b"\xff\x51") + 6
            struct.pack_into(">II", changed, at, columns, rows)
            struct.pack_into(">II", changed, at + 16, columns, rows)  # and of its one tile
        else:
            at = changed.index({"jpeg_ls": b"\xff\xf7", "jpeg_lossless": b"\xff\xc3"}[syntax])
            struct.pack_into(">HH", changed, at + 5, rows, columns)
        assert changed != stream
        return bytes(changed)

    return change


@pytest.mark.parametrize(("rows", "columns"), [(30_000, 30_000), (65_535, 65_535), (34, 18), (17, 36)])
@pytest.mark.parametrize("syntax", ["jpeg_lossless", "jpeg_ls", "jpeg_2000"])
def test_D10_a_stream_of_another_size_than_the_headers(
    sandbox: Sandbox, syntax: str, rows: int, columns: int
) -> None:
    objects = ct_series(syntax=syntax, edit=streams(claiming(syntax, rows, columns)), **LARGER)
    assert refused(objects) == (
        Reason.PIXEL_DECODE,
        f"a stream of {rows} rows and {columns} columns, expected 34 and 36",
    )
    assert peak_after(sandbox, objects)[1] < 16 << 20


def without_plugins(monkeypatch: pytest.MonkeyPatch, decoder: Decoder) -> None:
    monkeypatch.setattr(decoder, "_available", {})
    assert not decoder.is_available


@pytest.mark.parametrize(
    ("syntax", "decoder"),
    [
        ("jpeg_2000", decoders.JPEG2000LosslessDecoder),
        ("jpeg_ls", decoders.JPEGLSLosslessDecoder),
        ("jpeg_lossless", decoders.JPEGLosslessSV1Decoder),
    ],
)
def test_D13_a_missing_codec_fails_the_series_and_names_the_transfer_syntax(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, syntax: str, decoder: Decoder
) -> None:
    source = open_store(str(tmp_path), create=True)
    for name, data in ct_series(syntax=syntax, **LARGER):
        source.put(name, data)
    (ref,) = discover(source).manifest
    work = Work(ref, ref.record_key("config", "0" * 64))
    assert load(work, source, Limits()).status is Status.OK
    without_plugins(monkeypatch, decoder)
    failed = load(work, source, Limits())
    assert (failed.status, failed.reason) == (Status.FAILED, Failure.CODEC_UNAVAILABLE)
    assert failed.detail == SYNTAXES[syntax]


def test_D13_a_run_does_not_begin_without_its_codecs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_plugins(monkeypatch, decoders.HTJ2KLosslessDecoder)
    (tmp_path / "source").mkdir()
    stores = driver.open_stores(str(tmp_path / "source"), str(tmp_path / "output"))
    with pytest.raises(UsageError, match=r"no decoder .* 1\.2\.840\.10008\.1\.2\.4\.201"):
        driver.run(stores, RunConfig(), ThresholdSource())
    assert not list(stores.output.list())


@pytest.mark.parametrize("syntax", COMPRESSED)
def test_D14_garbage_in_place_of_a_stream(syntax: str) -> None:
    edit = streams(lambda _: b"CANARYPIXELS" + bytes(range(256)) * 4)
    assert reason_of(ct_series(syntax=syntax, edit=edit, **LARGER)) is Reason.PIXEL_DECODE


@pytest.mark.parametrize("keep", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("syntax", COMPRESSED)
def test_D14_a_stream_that_ends_early_inside_whole_fragments(syntax: str, keep: float) -> None:
    """The decoder of lossless JPEG would go on with the last value it read: wrong pixels, and no error."""

    def cut(stream: bytes) -> bytes:
        return stream[: int(keep * len(stream.rstrip(b"\0")))]

    assert reason_of(ct_series(syntax=syntax, edit=streams(cut), **LARGER)) is Reason.PIXEL_DECODE


@pytest.mark.parametrize("syntax", COMPRESSED)
def test_D14_flipped_bits_give_pixels_or_a_reason(syntax: str) -> None:
    rng = np.random.default_rng(14)
    outcomes = set()
    for _ in range(12):

        def flipped(stream: bytes) -> bytes:
            damaged = bytearray(stream)
            for place in rng.integers(len(damaged), size=3):
                damaged[place] ^= 1 << rng.integers(8)
            return bytes(damaged)

        objects = ct_series(n=8, syntax=syntax, edit=streams(flipped), **LARGER)
        try:
            read_series(objects)
            outcomes.add("read")
        except Rejected as refusal:
            told_nothing(refusal)
            assert refusal.reason in (Reason.PIXEL_DECODE, Reason.HU_IMPLAUSIBLE)
            outcomes.add(refusal.reason)
    assert Reason.PIXEL_DECODE in outcomes


@pytest.mark.parametrize(
    ("name", "syntax"),
    [
        ("JPEG2000.dcm", "jpeg_2000"),
        ("MR_small_jpeg_ls_lossless.dcm", "jpeg_ls"),
        ("MR_small_RLE.dcm", "rle"),
    ],
)
def test_D14_damaged_streams_of_the_corpus(name: str, syntax: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(corpus(name))
    real = dcmread(file)
    (stream,) = generate_frames(real.PixelData, number_of_frames=1)

    def series(stream: bytes) -> Objects:
        def edit(ds: Dataset, i: int) -> None:
            ds.PixelData = encapsulate([stream])
            for keyword in ("Rows", "Columns", "BitsStored", "HighBit", "PixelRepresentation"):
                setattr(ds, keyword, getattr(real, keyword))

        return ct_series(n=8, syntax=syntax, edit=edit, **LARGER)

    any_values = Limits(check_hounsfield=False)
    hu = read(series(stream), any_values).volume.hu
    np.testing.assert_array_equal(hu[0], np.maximum(real.pixel_array.astype(int) - 1024, -1024))
    for damaged in (stream[: len(stream) // 2], stream[:20] + stream[60:], bytes(len(stream))):
        assert refused(series(damaged), any_values)[0] is Reason.PIXEL_DECODE


def poisoned(tmp_path: Path, fault: str, seconds: float) -> tuple[Work, Work, list[int]]:
    """A series that does the fault to whatever decodes it, one beside it, and the ids of the children it took."""
    source = open_store(str(tmp_path), create=True)
    for folder, knobs in (("bad", {"image_hu": marked(fault), "seed": 1}), ("good", {"seed": 2})):
        for name, data in ct_series(**knobs, **SMALL):
            source.put(f"{folder}/{name}", data)
    refs = {ref.objects[0].key.partition("/")[0]: ref for ref in discover(source).manifest}
    box, children = Sandbox(seconds, entry="tests.faults.bad_child"), []
    started = box._start

    def counted() -> Any:
        sock = started()
        assert box._child is not None
        children.append(box._child.pid)
        return sock

    box._start = counted  # type: ignore[method-assign]
    decoding = Decoding(box, 3, MEMORY)
    done = {
        name: load(Work(ref, ref.record_key("config", "0" * 64)), source, Limits(), decoding=decoding)
        for name, ref in sorted(refs.items())
    }
    box.close()
    return done["bad"], done["good"], children


@pytest.mark.parametrize(("fault", "detail"), [("crash", "signal 11"), ("abort", "signal 6")])
def test_D15_a_decoder_that_crashes_poisons_its_series_alone(tmp_path: Path, fault: str, detail: str) -> None:
    bad, good, children = poisoned(tmp_path, fault, 60.0)
    assert (bad.status, bad.reason, bad.detail) == (Status.POISONED, Failure.DECODER_CRASH, detail)
    assert bad.volume is None and len(set(children)) == 4  # three for it, one for the next series
    assert good.status is Status.OK and good.volume is not None


@pytest.mark.parametrize("fault", ["spin", "stuck"])
def test_D16_a_decoder_that_never_ends_poisons_its_series_alone(tmp_path: Path, fault: str) -> None:
    bad, good, children = poisoned(tmp_path, fault, 1.0)
    assert (bad.status, bad.reason) == (Status.POISONED, Failure.TIMEOUT)
    assert len(set(children)) == 4 and good.status is Status.OK


@pytest.mark.parametrize("only", [None, 7])
def test_D17_lossy_compression_is_accepted_and_flagged(tmp_path: Path, only: int | None) -> None:
    objects = ct_series(edit=setting("LossyImageCompression", "01", only=only), **SMALL)
    assert read(objects).facts.lossy is True
    assert read(ct_series(edit=setting("LossyImageCompression", "00"), **SMALL)).facts.lossy is False
    source = open_store(str(tmp_path), create=True)
    for name, data in objects:
        source.put(name, data)
    (ref,) = discover(source).manifest
    assert ref.series_row().lossy is True


def test_D17_lossy_streams_of_the_corpus_are_flagged_by_their_syntax() -> None:
    for name in ("JPGExtended.dcm", "JPEG-lossy.dcm"):
        header = read_header(corpus(name))
        assert header is not None and header.is_lossy


def test_the_builders_streams_are_sound() -> None:
    """What the tests above damage is read without loss when it is not."""
    from tests.builders import Knobs

    for syntax in COMPRESSED:
        knobs = {"syntax": syntax, **LARGER}
        np.testing.assert_array_equal(
            read(ct_series(**knobs)).volume.hu, np.maximum(hu_of(Knobs(**knobs)), -1024)
        )
