"""Structures in pieces against the same files read as a whole."""

from __future__ import annotations

import gzip
import json
import os
from dataclasses import replace

import numpy as np
import pytest
from ase.io import write as ase_write

from matgraft.data import Dataset
from matgraft.data.formats.extxyz import parts
from matgraft.data.streaming import Stream, read_chunk
from matgraft.data.writers import write
from matgraft.errors import InputError


def stream(paths, size, scratch):
    """All structures, the sizes of the chunks, and what was skipped."""
    read = [read_chunk(chunk) for chunk in Stream(paths).chunks(size, scratch)]
    assert all(len(files) == len(ds) for ds, files, _ in read)
    skipped = [one for *_, some in read for one in some]
    return Dataset.concatenate([ds for ds, *_ in read]), [len(ds) for ds, *_ in read], skipped


def write_npz(crystals, path, save=np.savez_compressed, **changes):
    frac = np.concatenate([atoms.get_scaled_positions(wrap=False) for atoms in crystals])
    arrays = {"id": crystals.ids, "natoms": crystals.natoms, "numbers": crystals.numbers}
    save(path, **{**arrays, "frac": frac, "lattice": crystals.cells, **changes})
    return path


def write_json(crystals, path):
    structures = {
        str(name): {
            "lattice": {"matrix": atoms.cell.tolist()},
            "sites": [
                {"species": [{"element": symbol, "occu": 1}], "abc": abc.tolist()}
                for symbol, abc in zip(atoms.symbols, atoms.get_scaled_positions(wrap=False), strict=True)
            ],
        }
        for name, atoms in zip(crystals.ids, crystals, strict=True)
    }
    path.write_text(json.dumps(structures))
    return path


def write_cifs(crystals, folder):
    folder.mkdir()
    for name, atoms in zip(crystals.ids, crystals, strict=True):
        ase_write(folder / f"{name}.cif", atoms)
    return folder


def write_table(crystals, folder):
    write_cifs(crystals, folder)
    (folder / "id_prop.csv").write_text("".join(f"{name},1.5\n" for name in crystals.ids))
    return folder


def write_packed(crystals, path):
    write(crystals, path.with_suffix(""))
    path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))
    path.with_suffix("").unlink()
    return path


FORMATS = {
    "extxyz": lambda ds, at: write(ds, at / "a.extxyz") or at / "a.extxyz",
    "extxyz.gz": lambda ds, at: write_packed(ds, at / "a.extxyz.gz"),
    "npz, compressed": lambda ds, at: write_npz(ds, at / "a.npz"),
    "npz, stored": lambda ds, at: write_npz(ds, at / "a.npz", np.savez),
    "arrays": lambda ds, at: write(ds, at / "a") or at / "a",
    "db": lambda ds, at: write(ds, at / "a.db") or at / "a.db",
    "json": lambda ds, at: write_json(ds, at / "a.json"),
    "cif": lambda ds, at: write_cifs(ds, at / "a"),
    "csv": lambda ds, at: write_table(ds, at / "a"),
}


@pytest.mark.parametrize("size", [7, 60, 1000])
@pytest.mark.parametrize("form", FORMATS)
def test_pieces_are_the_whole(form, size, crystals, tmp_path):
    path = FORMATS[form](crystals, tmp_path)
    ds, sizes, skipped = stream([path], size, tmp_path / "scratch")
    assert ds.content_hash() == Dataset.read(path).content_hash()
    assert ds.ids.tolist() == Dataset.read(path).ids.tolist()
    assert max(sizes) <= size
    assert len(sizes) == -(-60 // size)
    assert not skipped
    assert not ds.labels


def test_several_small_files_share_a_chunk(crystals, tmp_path):
    for k in range(12):
        write(crystals[5 * k : 5 * k + 5], tmp_path / f"{k:02}.extxyz")
    ds, sizes, _ = stream([tmp_path], 20, tmp_path / "scratch")
    assert sizes == [20, 20, 20]
    assert ds.ids.tolist() == crystals.ids.tolist()


def test_a_known_set_by_name(tmp_path):
    for name, n in (("tmo-oxides", 663), ("tmo-oxides-clean", 251)):
        ds, sizes, _ = stream([name], 300, tmp_path / name)
        assert ds.ids.tolist() == Dataset.read(name).ids.tolist()
        assert len(ds) == n
        assert max(sizes) == 300 or len(sizes) == 1


def test_missing_ids_count_through_all_chunks(crystals, tmp_path):
    write_npz(crystals, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as archive:
        np.savez(tmp_path / "b.npz", **{name: archive[name] for name in archive.files if name != "id"})
    ase_write(tmp_path / "c.extxyz", list(crystals))
    for name in ("b.npz", "c.extxyz"):
        ds, _, _ = stream([tmp_path / name], 7, tmp_path / f"scratch-{name}")
        assert ds.ids.tolist() == [f"{name[0]}-{i}" for i in range(60)]


def test_bad_frames(crystals, tmp_path):
    path = tmp_path / "a.extxyz"
    write(crystals, path)
    text = path.read_text().splitlines()
    starts = np.concatenate([[0], np.cumsum(crystals.natoms + 2)])
    text[starts[20] + 2] = text[starts[20] + 2].replace("Fe", "Qq").replace("Ti", "Qq").replace("V", "Qq")
    text[starts[50]] = "garbage"
    for suffix, name in (("", path), (".gz", tmp_path / "a.extxyz.gz")):
        content = ("\n".join(text) + "\n").encode()
        name.write_bytes(gzip.compress(content) if suffix else content)
        for size in (7, 1000):
            ds, _, skipped = stream([name], size, tmp_path / f"scratch{suffix}{size}")
            assert ds.ids.tolist() == [f"salt-{k}" for k in range(50) if k != 20]
            assert [one.id for one in skipped] == ["salt-20", "a-50 and all that follow"]
            assert {one.file for one in skipped} == {str(name)}
            assert f"{name}: frame 21 (line {starts[20] + 1}): unknown species 'Qq'" in skipped[0].reason
            assert f"{name}: frame 51 (line {starts[50] + 1}): expected a number" in skipped[1].reason


def test_truncated_and_empty_extxyz(crystals, tmp_path):
    write(crystals, tmp_path / "a.extxyz")
    content = (tmp_path / "a.extxyz").read_bytes()
    (tmp_path / "a.extxyz").write_bytes(content[:-40])
    ds, _, skipped = stream([tmp_path / "a.extxyz"], 7, tmp_path / "scratch")
    assert len(ds) == 59
    assert "promises" in skipped[0].reason or "values instead of" in skipped[0].reason
    (tmp_path / "b.extxyz").write_text("")
    (tmp_path / "c.extxyz").write_bytes(b"\x00\x01" * 40)
    for name, reason in (("b", "empty"), ("c", "binary")):
        ds, _, skipped = stream([tmp_path / f"{name}.extxyz"], 7, tmp_path / name)
        assert len(ds) == 0
        assert reason in skipped[0].reason


def test_parts_end_where_blank_lines_begin(crystals, tmp_path):
    write(crystals, tmp_path / "a.extxyz")
    with open(tmp_path / "a.extxyz", "a") as file:
        file.write("\n \n\n")
    assert [part.frames for part in parts(tmp_path / "a.extxyz", 20)] == [20, 20, 20]
    assert [part.frames for part in parts(tmp_path / "a.extxyz", 1000)] == [60]


def test_bad_rows_of_an_npz_file(crystals, tmp_path):
    offsets = crystals.offsets
    numbers, frac = crystals.numbers.astype(np.int64), crystals.positions * 0
    frac = np.concatenate([atoms.get_scaled_positions(wrap=False) for atoms in crystals])
    numbers[offsets[10]] = 300
    frac[offsets[30]] = np.nan
    frac[offsets[31] + 1] = frac[offsets[31]]
    write_npz(crystals, tmp_path / "a.npz", numbers=numbers, frac=frac)
    ds, _, skipped = stream([tmp_path / "a.npz"], 25, tmp_path / "scratch")
    good = [f"salt-{k}" for k in range(60) if k not in (10, 30, 31)]
    assert ds.ids.tolist() == good
    assert [one.id for one in skipped] == ["salt-10", "salt-30", "salt-31"]
    for one, reason in zip(skipped, ("atomic number 300", "NaN", "overlap"), strict=True):
        assert reason in one.reason
        assert f"structure {one.id}" in one.reason or f"structures {one.id}" in one.reason
        assert one.file == str(tmp_path / "a.npz")


def test_npz_that_is_none(crystals, tmp_path):
    write_npz(crystals, tmp_path / "a.npz", natoms=crystals.natoms[:-1])
    with pytest.raises(InputError, match="belong to different sets"):
        stream([tmp_path / "a.npz"], 7, tmp_path / "scratch-a")
    write_npz(crystals, tmp_path / "b.npz")
    (tmp_path / "b.npz").write_bytes((tmp_path / "b.npz").read_bytes()[:3000])
    with pytest.raises(InputError, match="cannot be read as npz"):
        stream([tmp_path / "b.npz"], 7, tmp_path / "scratch-b")


def test_bad_blocks_and_records(crystals, tmp_path):
    blocks = []
    for k in range(3):
        ase_write(tmp_path / "one.cif", crystals.atoms(k))
        blocks.append((tmp_path / "one.cif").read_text().replace("data_image0", f"data_b{k}"))
    blocks[1] = blocks[1].replace("1.0000", "0.5000")
    (tmp_path / "three.cif").write_text("\n".join(blocks))
    ds, _, skipped = stream([tmp_path / "three.cif"], 7, tmp_path / "scratch-cif")
    assert ds.ids.tolist() == ["b0", "b2"]
    assert [one.id for one in skipped] == ["b1"]
    path = write_json(crystals[:5], tmp_path / "a.json")
    content = json.loads(path.read_text())
    content["salt-3"]["sites"][0]["species"][0]["occu"] = 0.5
    path.write_text(json.dumps(content))
    ds, _, skipped = stream([path], 2, tmp_path / "scratch-json")
    assert ds.ids.tolist() == ["salt-0", "salt-1", "salt-2", "salt-4"]
    assert [one.id for one in skipped] == ["salt-3"]
    path.write_text(json.dumps({"salt-3": content["salt-3"]}))
    ds, _, skipped = stream([path], 2, tmp_path / "scratch-none")
    assert (len(ds), [one.id for one in skipped]) == (0, ["salt-3"])


def test_labels_that_contradict_one_another_do_not_matter(crystals, tmp_path):
    spec = replace(crystals.specs["energy"], kind="atom", unit="eV/atom")
    for k, specs in enumerate((crystals.specs, {"energy": spec})):
        write(replace(crystals[k * 30 : k * 30 + 30], specs=specs), tmp_path / f"{k}.extxyz")
    with pytest.raises(InputError, match="convert one"):
        Dataset.read(tmp_path)
    assert len(stream([tmp_path], 1000, tmp_path / "scratch")[0]) == 60


def test_fingerprint(crystals, tmp_path):
    write(crystals, tmp_path / "a.extxyz")
    write(crystals, tmp_path / "set")
    for path, inside in ((tmp_path / "a.extxyz", ""), (tmp_path / "set", "positions.npy")):
        before = Stream([path]).fingerprint()
        assert Stream([path]).fingerprint() == before
        os.utime(path / inside if inside else path, ns=(0, 1))
        assert Stream([path]).fingerprint() != before


def test_nothing_to_read(tmp_path):
    for paths, message in (
        ([], "at least one"),
        (["tmo-oxide"], "Did you mean tmo-oxides"),
        ([tmp_path], "no "),
    ):
        with pytest.raises(InputError, match=message):
            Stream(paths)
