"""Folders of photographs of two shapes and the settings of notebook 11 for them: what its tests and those of bad inputs build."""

from helpers import mask, picture, save

from rdlib.own import images


def folders(root, good=8, bad=2):
    for i in range(good):
        save(picture((40, 28), seed=i), root / "good" / f"{i:02d}.png")
    for i in range(bad):
        save(picture((28, 44), seed=100 + i), root / "bad" / "hole" / f"{i:02d}.png")
        save(mask((28, 44)), root / "masks" / "hole" / f"{i:02d}_mask.png")
    return root


def own_settings(root, **changes):
    places = {name: str(root / name.removesuffix("_dir")) for name in ("good_dir", "bad_dir", "masks_dir")}
    return images.Settings(
        **places | {"image_size": 32, "epochs": 1, "out_dir": str(root / "out"), "threads": 1, "device": "cpu"} | changes
    )
