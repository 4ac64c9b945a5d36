"""Contact sheets and animations: where images stand, and what is written beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vision_bench.pictures import font_for, save_picture, titled
from vision_bench.text_to_image import pictures
from vision_bench.text_to_image.images import ImageFile, plan_images
from vision_bench.text_to_image.pictures import contact_sheet, wrapped, write_animation

PROMPTS = ["a red coat", "a boot that nobody has ever worn, not even once, in any weather " * 3]
STRENGTHS = [0.0, 0.5, 1.0]
SIDE = 64


def colour(number: int, strength: float) -> tuple[int, int, int]:
    return 50 + 100 * number, round(200 * strength), 30


@pytest.fixture
def images(tmp_path: Path) -> list[list[ImageFile]]:
    """Images of one colour each, by number and strength."""
    planned = plan_images(PROMPTS, STRENGTHS)
    for one in (one for files in planned for one in files):
        (tmp_path / one.file).parent.mkdir(parents=True, exist_ok=True)
        plain = Image.new("RGB", (SIDE, SIDE), colour(one.number, one.strength))
        save_picture(tmp_path / one.file, plain)
    return planned


def squares(sheet: Image.Image, shade: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """The box of the pixels of a colour, and that they fill it."""
    found = np.argwhere((np.asarray(sheet) == shade).all(-1))
    (top, left), (bottom, right) = found.min(0), found.max(0)
    assert len(found) == (bottom - top + 1) * (right - left + 1)
    return int(left), int(top), int(right) + 1, int(bottom) + 1


def test_a_sheet_has_a_row_for_each_prompt_and_a_column_for_each_strength(
    tmp_path: Path, images: list[list[ImageFile]]
) -> None:
    sheet = contact_sheet(tmp_path, images)
    boxes = [[squares(sheet, colour(row, one)) for one in STRENGTHS] for row in range(2)]
    for row in boxes:
        assert {(right - left, bottom - top) for left, top, right, bottom in row} == {(192, 192)}
        assert len({top for _, top, *_ in row}) == 1
        assert [left for left, *_ in row] == [left for left, *_ in boxes[0]]
        gaps = {after[0] - before[2] for before, after in zip(row, row[1:], strict=False)}
        assert gaps == {8}
    assert boxes[0][0][3] < boxes[1][0][1]
    assert sheet.height == boxes[1][0][3] + 8 and sheet.width == boxes[0][2][2] + 8
    # Dark letters above each column and left of each row, and none on the images' own edges.
    ink = np.asarray(sheet.convert("L")) < 60
    for left, top, right, _ in boxes[0]:
        assert ink[:top, left:right].any()
    first = boxes[0][0]
    assert ink[first[1] : first[3], : first[0] - 8].any()
    assert not ink[:, first[0] - 8 : first[0]].any()


def test_a_sheet_of_many_has_the_first_images_and_both_end_strengths(
    tmp_path: Path, images: list[list[ImageFile]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "SHEET_ROWS", 1)
    monkeypatch.setattr(pictures, "SHEET_COLUMNS", 2)
    found = {tuple(one) for one in np.asarray(contact_sheet(tmp_path, images)).reshape(-1, 3)}
    shown = {colour(0, 0.0), colour(0, 1.0)}
    others = {colour(0, 0.5), *(colour(1, one) for one in STRENGTHS)}
    assert shown <= found and not others & found


def test_an_animation_has_a_frame_for_each_strength_with_its_label(
    tmp_path: Path, images: list[list[ImageFile]]
) -> None:
    path = write_animation(tmp_path / "0.gif", tmp_path, images[0][::-1])
    band = titled(Image.new("RGB", (512, 1)), "λ").height - 1
    with Image.open(path) as animation:
        assert animation.n_frames == 3
        bands = []
        for frame, strength in enumerate(STRENGTHS):  # rising, whatever the order they came in
            animation.seek(frame)
            shown = np.asarray(animation.convert("RGB")).astype(int)
            assert shown.shape == (512 + band, 512, 3)
            assert np.abs(shown[band:] - colour(0, strength)).max() <= 4
            label = titled(Image.new("RGB", (512, 512), (9, 9, 9)), f"λ = {strength:g}")
            wanted = np.asarray(label)[:band].astype(int)
            assert np.abs(shown[:band] - wanted).mean() < 3
            bands.append(shown[:band])
        assert np.abs(bands[0] - bands[1]).max() > 100


def test_a_long_prompt_is_broken_and_cut() -> None:
    font = font_for(400)
    lines = wrapped(PROMPTS[1], font, 200, 4)
    assert len(lines) == 4 and lines[-1].endswith("…")
    assert all(font.getlength(line) <= 200 for line in lines)
    whole = wrapped(PROMPTS[1], font, 200, 100)
    assert " ".join(whole) == " ".join(PROMPTS[1].split())
    word = wrapped("x" * 200, font, 100, 100)
    assert "".join(word) == "x" * 200 and all(font.getlength(line) <= 100 for line in word)
    assert wrapped("", font, 100, 3) == [""]
