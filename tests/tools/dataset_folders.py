"""Small made-up folders in the layout of each data set: 4 normal images to train on, 2 normal and 2 anomalous ones to test, 40 x 32 px.

Each function makes one at `root` and returns the names of its train images, test images and masks, relative to the category's folder.
"""

from pathlib import Path

from helpers import mask, mvtec_folder, picture, save

BOX, NOTHING = (4, 4, 20, 16), (0, 0, 0, 0)
Names = tuple[list[str], list[str], list[str]]


def mvtec(root: Path, category: str) -> Names:
    mvtec_folder(root / category)
    test = [f"test/{kind}/{i:03d}.png" for kind in ("good", "hole") for i in range(2)]
    return [f"train/good/{i:03d}.png" for i in range(4)], test, [f"ground_truth/hole/{i:03d}_mask.png" for i in range(2)]


def btad(root: Path, category: str) -> Names:
    """Images are BMP, masks PNG under the same names, as in 01 and 03."""
    train = [f"train/ok/{i:04d}.bmp" for i in range(4)]
    test = [f"test/{kind}/{i:04d}.bmp" for kind in ("ko", "ok") for i in range(2)]
    masks = [f"ground_truth/ko/{i:04d}.png" for i in range(2)]
    return _made(root / category, train, test, masks)


def visa(root: Path, category: str) -> Names:
    """Masks hold label numbers; the table has the rows of another category too."""
    normal = [f"Data/Images/Normal/{i:04d}.JPG" for i in range(6)]
    bad, masks = [f"Data/Images/Anomaly/{i:03d}.JPG" for i in range(2)], [f"Data/Masks/Anomaly/{i:03d}.png" for i in range(2)]
    train, test = normal[1:5], [*bad, normal[0], normal[5]]
    lines = ["object,split,label,image,mask", "cashew,train,normal,cashew/Data/Images/Normal/000.JPG,"]
    lines += [f"{category},train,normal,{category}/{name}," for name in reversed(train)]
    lines += [f"{category},test,normal,{category}/{name}," for name in (normal[5], normal[0])]
    lines += [f"{category},test,anomaly,{category}/{name},{category}/{m}" for name, m in zip(bad, masks)]
    (root / "split_csv").mkdir(parents=True, exist_ok=True)
    (root / "split_csv/1cls.csv").write_text("\n".join(lines) + "\n")
    (root / category).mkdir()
    (root / category / "image_anno.csv").write_text("image,label,mask\n")
    made = _made(root / category, train, test, masks)
    for name in masks:
        save(mask(box=BOX).point(lambda value: value // 85), root / category / name)
    return made


def kolektorsdd(root: Path, category: str) -> Names:
    """Every image has a label, black if it is normal; one of the anomalous images lies among those to train on."""
    parts = {"kos01": "001", "kos02": "00", "kos05": "01", "kos11": "0"}  # commutator -> a digit per image, 1 = anomalous
    every = [(f"{kos}/Part{i}", int(bad)) for kos, digits in parts.items() for i, bad in enumerate(digits)]
    for name, bad in every:
        save(mask(box=BOX if bad else NOTHING), root / f"{name}_label.bmp")
    test = [name for name, bad in every if bad or name.startswith("kos05")]
    train = [name for name, _ in every if name not in test]
    names = [[f"{name}.jpg" for name in split] for split in (train, test)]
    return _made(root, *names, [f"{name}_label.bmp" for name, bad in every if bad])


def magnetic_tile(root: Path, category: str) -> Names:
    """Masks of the free ones are black; a notice and a picture lie beside the folders, as in the repository."""
    train = [f"MT_Free/Imgs/exp{i}_num_{n}.jpg" for i, n in enumerate((1234, 4999, 26001, 100))]
    train, held_out = train[:3] + ["MT_Free/Imgs/exp1_num_6000.jpg"], [train[3], "MT_Free/Imgs/exp2_num_345999.jpg"]
    test = sorted([*held_out, "MT_Blowhole/Imgs/exp1_num_1234.jpg", "MT_Uneven/Imgs/exp1_num_7.jpg"])
    for name in (*train, *held_out):
        save(mask(box=NOTHING), (root / name).with_suffix(".png"))
    save(picture(), root / "dataset.jpg")
    (root / "README.md").write_text("Magnetic tiles")
    return _made(root, sorted(train), test, [name.replace(".jpg", ".png") for name in test if "Free" not in name])


def _made(folder: Path, train: list[str], test: list[str], masks: list[str]) -> Names:
    for i, name in enumerate((*train, *test)):
        save(picture(seed=i), folder / name)
    for name in masks:
        save(mask(box=BOX), folder / name)
    return train, test, masks


MAKERS = {
    "mvtec": mvtec,
    "visa": visa,
    "btad": btad,
    "mpdd": mvtec,
    "kolektorsdd": kolektorsdd,
    "magnetic_tile": magnetic_tile,
    "folder": mvtec,
}
CATEGORIES = {"mvtec": "bottle", "visa": "candle", "btad": "03", "mpdd": "tubes", "kolektorsdd": "commutator", "folder": "my_nut.2"}


def made(dataset: str, root: Path) -> tuple[str, Names]:
    """A category of the data set, made at `root`. returns: its name, and what is in it"""
    category = CATEGORIES.get(dataset, dataset)
    return category, MAKERS[dataset](root, category)
