from unlabeled.data.notes import Notes


def test_every_kind_is_named_once_with_its_count_and_examples():
    notes = Notes()
    for k in range(5):
        notes.add("alpha is 0 everywhere and was ignored", f"{k}.bmp")
    notes.add("the path is empty", unit="row")
    assert notes.sentences() == [
        "In 5 images, alpha is 0 everywhere and was ignored (0.bmp, 1.bmp, 2.bmp, …).",
        "In 1 row, the path is empty.",
    ]
    assert notes.to_json()[0] == {
        "note": "alpha is 0 everywhere and was ignored",
        "unit": "image",
        "count": 5,
        "examples": ["0.bmp", "1.bmp", "2.bmp"],
    }


def test_notes_of_several_parts_add_up():
    one, other = Notes(), Notes()
    one.add("cut", "a")
    other.add("cut", "b")
    other.add("gone", unit="row")
    both = Notes().extend([one, other])
    assert [(record["note"], record["count"], record["examples"]) for record in both.to_json()] == [
        ("cut", 2, ["a", "b"]),
        ("gone", 1, []),
    ]
    assert not Notes() and both
