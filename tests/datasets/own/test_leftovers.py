"""Leftovers of systems and programs are skipped in folders and lists, and counted; classes are not."""

import numpy as np
import pytest
from PIL import Image

from datasets import load_data
from datasets.own.pictures import LEFTOVERS, leftover, leftover_in

# as the systems write them: path of a file in a class folder, or of a folder next to the class folders
IN_CLASSES = [
    *("@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", "@eaDir/1.jpg@SynoEAStream", "@eaDir/1.jpg/SYNOPHOTO:THUMB_XL.jpg"),
    *("a/b/@eaDir/2.jpg/SYNOPHOTO_THUMB_SM.jpg", "a/SYNOPHOTO_THUMB_B.jpg", "#recycle/1.jpg", "@tmp/1.jpg"),
    *(".@__thumb/s1001.jpg", "@Recycle/1.jpg", "@Recently-Snapshot/GMT+01/1.jpg", "#snapshot/2024/1.jpg"),
    *(
        "$RECYCLE.BIN/S-1-5-21-1-2-3-1001/$R1.jpg",
        "RECYCLER/S-1-5-21-1-2-3-500/Dc1.jpg",
        "System Volume Information/1.jpg",
    ),
    *(
        "$recycle.bin/1.jpg",
        "AlbumArt_{5FA05D35-A682}_Large.jpg",
        "AlbumArtSmall.jpg",
        "~$1.jpg",
        "Thumbs.db",
        "desktop.ini",
    ),
    *("__MACOSX/._1.jpg", "._1.jpg", ".DS_Store", ".Trashes/501/1.jpg", ":2e_1.jpg", "Network Trash Folder/1.jpg"),
    *("Photos Library.photoslibrary/resources/derivatives/1.jpg", "Icon\r", ".1.jpg.icloud", ".AppleDouble/1.jpg"),
    *("lost+found/1.jpg", ".Trash-1000/files/1.jpg", ".thumbnails/normal/1.png", ".nfs0000001.jpg", "FOUND.000/1.jpg"),
    *(
        ".trashed-1700000000-1.jpg",
        "THMBNL/C0001T01.JPG",
        "LOST.DIR/1.jpg",
        ".thumbdata4/1.jpg",
        ".picasaoriginals/1.jpg",
    ),
    *("[Originals]/1.jpg", "Catalog Previews.lrdata/1.jpg", ".dropbox.cache/1.jpg", ".sync_1.jpg", ".stversions/1.jpg"),
    *("~syncthing~1.jpg", ".~tmp~/1.jpg", ".ipynb_checkpoints/1-checkpoint.jpg", ".git/1.jpg", "__pycache__/1.jpg"),
    *("~snapshot/hourly.0/1.jpg", ".snapshot/hourly.0/1.jpg", ".wdmc/1.jpg", ".zfs/snapshot/1.jpg", ".hidden/1.jpg"),
    *("1.jpg:Zone.Identifier", "_NAS_Recycle_Pictures/1.jpg", "$WINDOWS.~BT/1.jpg", "@EADIR/1.jpg/1.jpg"),
]
# words, signs and numbers that may be class names
CLASSES = [
    *(
        "Originals",
        "Thumbnails",
        "thumb",
        "Recycled",
        "recycle",
        "RECYCLER",
        "Trash",
        "trashbox",
        "System",
        "Temp",
        "Cache",
    ),
    *("@", "@home", "#1", "#hashtag", "$1", "$100 bill", "~", "~100 g", "_", "__init__", "Icon", "Icons", "Desktop"),
    *(
        "Snapshot",
        "Library",
        "Photos",
        "Previews",
        "lost",
        "found",
        "Lost and Found",
        "FOUND",
        "Backup",
        "Network",
        "git",
    ),
    *("S-1", "S-15", "MACOSX", "eaDir", "tmp", "Album Art", "AlbumArt", "sync", "originals [1]", "חתול", "قط"),
]


@pytest.fixture(scope="module")
def jpeg(tmp_path_factory):
    path = tmp_path_factory.mktemp("jpeg") / "1.jpg"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    return path.read_bytes()


@pytest.fixture
def root(tmp_path, jpeg):
    """root/cat and root/dog with four pictures each."""
    for path in [f"{name}/{i}.jpg" for name in ("cat", "dog") for i in range(4)]:
        write(tmp_path / "pets" / path, jpeg)
    return tmp_path / "pets"


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def names(root, data):
    return sorted(path.removeprefix(f"{root}/") for path in (*data.train.images.paths, *data.test.images.paths))


def build(root, **options):
    return load_data("folder", str(root), test_fraction=0.25, **options)


@pytest.mark.parametrize("path", IN_CLASSES)
def test_leftovers_in_a_class_folder(path, root, jpeg):
    before = names(root, build(root))
    write(root / "cat" / path, jpeg)
    data = build(root)
    assert names(root, data) == before
    (note,) = data.notes
    assert note.startswith(f"{root}: ignored hidden names and leftovers of systems (1 ")


@pytest.mark.parametrize("path", [path for path in IN_CLASSES if path.count("/")])
def test_leftovers_beside_the_class_folders(path, root, jpeg):
    write(root / path, jpeg)
    if path.startswith(("a/", "RECYCLER/")):  # a folder of the user, and one that only XP's trash identifies
        assert build(root).classnames == ["cat", "dog"]
        return
    data = build(root)
    assert data.classnames == ["cat", "dog"]
    assert "ignored" in data.notes[0]


@pytest.mark.parametrize("name", CLASSES)
def test_classes_of_any_name_stay(name, root, jpeg):
    for i in range(2):
        write(root / name / f"{i}.jpg", jpeg)
    data = build(root)
    assert data.classnames == sorted(["cat", "dog", name])
    assert not any("ignored" in note for note in data.notes)


def test_every_name_of_the_table_is_found_in_any_letters():
    for name in (name for names in LEFTOVERS.values() for name in names):
        example = name.replace("*", "x")
        for spelling in (example, example.upper(), example.lower()):
            assert leftover(spelling) is not None, spelling
            assert leftover_in(f"a/{spelling}/b.jpg") and leftover_in(f"a\\{spelling}\\b.jpg")


def test_the_note_counts_by_name(root, jpeg):
    for i in range(3):
        write(root / f"cat/@eaDir/{i}/t.jpg", jpeg)
        write(root / f"dog/._{i}.jpg", jpeg)
    write(root / "dog/sub/@eaDir/t.jpg", jpeg)
    write(root / ".cats/1.jpg", jpeg)
    assert build(root).notes == (f"{root}: ignored hidden names and leftovers of systems (3 ._*, 2 @eaDir, 1 .cats)",)


def test_folders_that_may_be_thumbnails_are_reported_and_read(root, jpeg):
    write(root / "cat/thumbs/1.jpg", jpeg)
    data = build(root)
    assert "cat/thumbs/1.jpg" in names(root, data)
    (note,) = data.notes
    assert "1 folders named thumbs are read as pictures of their classes" in note


# ---- lists ----


def lines(root):
    """path,label of each picture below root, as `find` lists them."""
    return [
        f"{path.relative_to(root)},{path.relative_to(root).parts[0]}"
        for path in sorted(root.rglob("*.jpg"))
        if path.is_file()
    ]


def test_a_list_made_by_find(root, jpeg, tmp_path):
    before = names(root, build(root))
    for path in ("cat/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", "dog/._1.jpg", "dog/.ipynb_checkpoints/1-checkpoint.jpg"):
        write(root / path, jpeg)
    (tmp_path / "list.csv").write_text("\n".join(lines(root)))
    data = build(root, train_list=str(tmp_path / "list.csv"))
    assert names(root, data) == before
    assert data.notes == (
        f"{tmp_path}/list.csv: left out 3 images in leftovers of systems (1 in @eaDir, 1 in ._*, 1 in "
        ".ipynb_checkpoints; the first in line 5); remove these lines",
    )


def test_positions_stay_true_without_leftovers(root, jpeg, tmp_path):
    (tmp_path / "list.csv").write_text("cat/._1.jpg,cat\ncat/1.jpg,cat\ndog/1.jpg,dog\n")
    (tmp_path / "test.csv").write_text("dog/._1.jpg,dog\ndog/1.jpg,dog\n")
    with pytest.raises(Exception, match=r"test.csv, line 2: .*dog/1.jpg is a training image, too"):
        load_data("folder", str(root), train_list=str(tmp_path / "list.csv"), test_list=str(tmp_path / "test.csv"))


def test_hidden_folders_in_a_list_are_the_users_choice(root, jpeg, tmp_path):
    """Programs keep downloads in .cache."""
    paths = [f".cache/pets/{name}/{i}.jpg" for name in ("cat", "dog") for i in range(2)]
    for path in paths:
        write(root / path, jpeg)
    (tmp_path / "list.csv").write_text("\n".join(f"{path},{path.split('/')[2]}" for path in paths))
    data = build(root, train_list=str(tmp_path / "list.csv"))
    assert names(root, data) == paths
    assert data.notes == ()


def test_a_list_of_leftovers_alone_is_meant(root, jpeg, tmp_path):
    """Pictures of last night, from a snapshot."""
    paths = [f".snapshot/daily/{name}/{i}.jpg" for name in ("cat", "dog") for i in range(2)]
    for path in paths:
        write(root / path, jpeg)
    (tmp_path / "list.csv").write_text("\n".join(f"{path},{path.split('/')[2]}" for path in paths))
    data = build(root, train_list=str(tmp_path / "list.csv"))
    assert names(root, data) == paths
    (note,) = data.notes
    assert note.endswith(
        "all its images are in leftovers of systems (4 in .snapshot); they are read, as there are no others"
    )
