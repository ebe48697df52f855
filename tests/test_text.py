"""Text that users write and text that they read."""

import pytest

from xceptlab.files import decoded, read
from xceptlab.text import LENGTH, one_line, say, shortened


@pytest.mark.parametrize("data", [b"", b"a\nb", "é日本".encode(), b"\xef\xbb\xbfa\n"])
def test_utf_8_is_read_with_and_without_a_byte_order_mark(data, tmp_path):
    (tmp_path / "file").write_bytes(data)
    assert read(tmp_path / "file") == decoded(data) == data.decode().removeprefix("\ufeff")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"a\nb\ncaf\xe9\n", "not UTF-8 text: byte 0xe9 in line 3"),
        (b"\xff", "not UTF-8 text: byte 0xff in line 1"),
        (b"a\r\n\xc3", "not UTF-8 text: byte 0xc3 in line 2"),
        (b"\xed\xa0\x80", "not UTF-8 text: byte 0xed in line 1"),
        ("é".encode("utf-16"), "UTF-16 text; save it as UTF-8"),
        (b"\xfe\xff\x00a", "UTF-16 text; save it as UTF-8"),
    ],
)
def test_other_text_is_refused_with_its_place(data, reason, tmp_path):
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(ValueError, match=reason) as error:
        read(tmp_path / "file")
    assert str(error.value) == f"{tmp_path / 'file'}: {reason}"


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("a\n b\t\tc ", "a b c"),
        ("\x1b[31mred\x07\x7f", r"\x1b[31mred\x07\x7f"),
        ("\u202eabc\u200f", r"\u202eabc\u200f"),
        ("caf\udce9", r"caf\xe9"),
        ("\ud800", r"\ud800"),
        ("é日本 \U0001f600 ×", "é日本 \U0001f600 ×"),
        ("a\u2028b\x85c\xa0d", "a b c d"),
    ],
)
def test_a_line_does_nothing_to_a_terminal(message, line, capsys):
    assert one_line(message) == line
    say(message)
    say(message, "Warning")
    assert capsys.readouterr().err == f"xceptlab: {line}\nWarning: {line}\n"


@pytest.mark.parametrize("length", [LENGTH - 1, LENGTH, LENGTH + 1, 10**6])
def test_a_long_line_keeps_its_beginning_and_its_end(length):
    line = one_line("a" + "x" * (length - 2) + "z")
    assert len(line) == min(length, LENGTH)
    assert line[0] + line[-1] == "az"
    assert (" ... " in line) == (length > LENGTH)


def test_short_texts_stay_and_of_longer_ones_the_middle_goes():
    assert shortened("abcdefgh", 8) == "abcdefgh"
    assert shortened("abcdefghijklmnop", 14) == "abcdef ... nop"
    assert shortened("x" * 90 + "there is none", 50) == "x" * 30 + " ... " + "xxthere is none"


def test_a_terminal_that_is_gone_is_no_error(monkeypatch):
    class Gone:
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr("sys.stderr", Gone())
    say("unheard")
