"""Text to ids: those of transformers' BertTokenizer, on real vocabularies and hard texts."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from minibert.errors import UserError
from minibert.tokenizer import SPECIAL, load_tokenizer, save_tokenizer

REAL = ("bert-base-chinese", "bert-base-cased")
ENTRIES = [
    *SPECIAL.values(),
    "hello",
    "world",
    "##s",
    "a",
    "##b",
    "Hello",
    "e",
    "é",
    "中",
    "国",
    "!",
]
FILES = {"tokenizer.json", "tokenizer_config.json", "vocab.txt"}

HARD = [
    "",
    " ",
    "\t\n\r ",
    "Hello, World! Héllo Wörld ÀÉÎÕÜ ñ ç ø ß İstanbul ŉ",
    "cafe\u0301 nai\u0308ve \u1e69\u0323",  # accents apart from their letters
    "😀 👍🏽 👩‍👩‍👧‍👦 🇨🇳 ❤️ text😎text",
    "\u4f60\u597d，世界！「引号」《书名》……——",
    "ｆｕｌｌ ｗｉｄｔｈ １２３，ＡＢＣ！",
    "\U00020000\U0002a6d6 \U0002b740 \uf900 \u3400 㐂",  # ideographs outside the basic block
    "한국어 日本語のかな カタカナ ไทย العربية עברית हिन्दी",
    "a\u0000b\u0001c\u007fd\ufffde\u200bf\u200dg\ufeffh\u00adi\u2028j\u2029k\u0085l\u00a0m\u3000n",
    "tab\tnew\nline\r\nand\x0bvertical\x0cfeed",
    "[MASK] [mask] a[MASK]b [CLS] [SEP] [PAD] [UNK] [MASK][MASK] [ MASK ] [UNUSED1] [unused1]",
    "x" * 100,
    "x" * 101,
    "supercalifragilistic" * 20 + " after",
    "字" * 300,
    "http://example.org/a_b?c=d&e=%20#f user@example.com 3.14 1,000,000 -5 $9.99 50% ½ №",
    "##piece ## a##b '' \"\" `` -- ... ¿¡ ^~|\\ <b>&amp;</b>",
    "don't I'm we'll O'Neill rock'n'roll",
    "ﬁ ﬂ Ǆ ǅ ǆ ℌ ℵ Å Ω ㎏ ① Ⅷ",
    "".join(chr(i) for i in range(0x20, 0x250)),
    " ".join(chr(i) for i in range(0x2000, 0x2070)),
]


def write(directory: Path, entries: list[str], **settings: Any) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "vocab.txt").write_text("".join(f"{e}\n" for e in entries), encoding="utf-8")
    if settings:
        (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


def real_texts(shared: Path) -> list[str]:
    """Some hundreds of questions, paragraphs and reviews in both languages, and the hard ones."""
    texts = []
    for file in ("cmrc2018/dev.json", "squad/dev.json"):
        for article in json.loads((shared / "data" / file).read_text(encoding="utf-8"))["data"]:
            for paragraph in article["paragraphs"][:20:7]:
                texts.append(paragraph["context"][:400])
                texts.append(paragraph["qas"][0]["question"])
    rows = (shared / "data/sst2/dev.tsv").read_text(encoding="utf-8").splitlines()[1:100]
    return [*texts, *(row.partition("\t")[0] for row in rows), *HARD]


# ---- the ids of transformers ----------------------------------------------------------------


@pytest.mark.reference
@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"do_lower_case": True},
        {"do_lower_case": True, "strip_accents": False},
        {"do_lower_case": False, "strip_accents": True},
        {"do_lower_case": False, "tokenize_chinese_chars": False},
    ],
    ids=str,
)
def test_ids_are_those_of_transformers(
    shared: Path, tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    transformers = pytest.importorskip("transformers")
    given = json.loads((shared / name / "tokenizer_config.json").read_text())
    vocabulary = (shared / name / "vocab.txt").read_bytes()
    directory = write(tmp_path, [], **(given | settings))
    (directory / "vocab.txt").write_bytes(vocabulary)
    ours, texts = load_tokenizer(directory), real_texts(shared)
    assert len(texts) > 300
    # One class with two names since transformers 5.
    for peer_class in {transformers.BertTokenizer, transformers.BertTokenizerFast}:
        peer = peer_class.from_pretrained(directory)
        assert [e.ids for e in ours.encode_batch(texts)] == peer(texts)["input_ids"]
        pairs = list(zip(texts[:60], reversed(texts), strict=False))
        theirs = peer([a for a, _ in pairs], [b for _, b in pairs])
        encodings = ours.encode_batch(pairs)
        assert [e.ids for e in encodings] == theirs["input_ids"]
        assert [e.type_ids for e in encodings] == theirs["token_type_ids"]


@pytest.mark.reference
@pytest.mark.parametrize("name", REAL)
def test_transformers_reads_what_is_saved_and_gives_the_same_ids(
    shared: Path, tmp_path: Path, name: str
) -> None:
    transformers = pytest.importorskip("transformers")
    ours, texts = load_tokenizer(shared / name), real_texts(shared)
    save_tokenizer(ours, tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    peer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    expected = [e.ids for e in ours.encode_batch(texts)]
    assert peer(texts)["input_ids"] == expected
    assert (peer.mask_token, peer.pad_token_id) == ("[MASK]", ours.token_to_id("[PAD]"))
    peer.save_pretrained(tmp_path / "back")
    again = load_tokenizer(tmp_path / "back")
    assert [e.ids for e in again.encode_batch(texts)] == expected


@pytest.mark.reference
@pytest.mark.parametrize("in_json", [True, False])
@pytest.mark.parametrize("in_config", [True, False])
def test_tokenizer_config_goes_before_tokenizer_json_as_in_transformers(
    shared: Path, tmp_path: Path, in_json: bool, in_config: bool
) -> None:
    transformers = pytest.importorskip("transformers")
    save_tokenizer(load_tokenizer(shared / "bert-base-cased"), tmp_path)
    edit(tmp_path / "tokenizer.json", lambda j: j["normalizer"].update(lowercase=in_json))
    edit(tmp_path / "tokenizer_config.json", lambda c: c.update(do_lower_case=in_config))
    ids = load_tokenizer(tmp_path).encode("Héllo WORLD").ids
    peer = transformers.BertTokenizer.from_pretrained(tmp_path)
    assert ids == peer("Héllo WORLD")["input_ids"]
    assert ids == peer("hello world" if in_config else "Héllo WORLD")["input_ids"]


# ---- without transformers -------------------------------------------------------------------


@pytest.mark.parametrize("name", REAL)
def test_every_entry_of_a_real_vocabulary_has_its_line_as_id(shared: Path, name: str) -> None:
    tokenizer = load_tokenizer(shared / name)
    entries = (shared / name / "vocab.txt").read_bytes().decode().removesuffix("\n").split("\n")
    assert [tokenizer.token_to_id(entry) for entry in entries] == list(range(len(entries)))
    assert tokenizer.get_vocab_size() == len(entries)


def test_known_ids_of_bert_base_chinese(shared: Path) -> None:
    """[CLS] 101, [SEP] 102, [MASK] 103, as everywhere in what is written about it."""
    encoding = load_tokenizer(shared / "bert-base-chinese").encode("中国的首都是[MASK]京。")
    assert encoding.tokens == ["[CLS]", *"中国的首都是", "[MASK]", "京", "。", "[SEP]"]
    assert (encoding.ids[0], encoding.ids[7], encoding.ids[-1]) == (101, 103, 102)


def test_longest_pieces_first_and_unknown_words_whole(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write(tmp_path, ENTRIES))
    assert tokenizer.encode("hellos ab abb xyz").tokens == [
        "[CLS]", "hello", "##s", "a", "##b", "a", "##b", "##b", "[UNK]", "[SEP]"
    ]  # fmt: skip
    assert tokenizer.encode("中国人!").tokens == ["[CLS]", "中", "国", "[UNK]", "!", "[SEP]"]
    long = tokenizer.encode("a" + "b" * 99 + " a" + "b" * 100).tokens
    assert (long.count("##b"), long[-2]) == (99, "[UNK]")


def test_a_pair_has_two_types(tmp_path: Path) -> None:
    encoding = load_tokenizer(write(tmp_path, ENTRIES)).encode("hello", "a world")
    assert encoding.tokens == ["[CLS]", "hello", "[SEP]", "a", "world", "[SEP]"]
    assert encoding.type_ids == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("settings", "tokens"),
    [
        ({}, ["hello", "e", "中", "国"]),  # transformers' default: lower case without accents
        ({"do_lower_case": True, "strip_accents": False}, ["hello", "é", "中", "国"]),
        ({"do_lower_case": False}, ["Hello", "é", "中", "国"]),
        ({"do_lower_case": False, "strip_accents": None}, ["Hello", "é", "中", "国"]),
        ({"do_lower_case": False, "strip_accents": True}, ["Hello", "e", "中", "国"]),
        ({"tokenize_chinese_chars": False}, ["hello", "e", "[UNK]"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("source", ["vocab.txt", "tokenizer.json"])
def test_settings_are_honoured(
    tmp_path: Path, settings: dict[str, Any], tokens: list[str], source: str
) -> None:
    write(tmp_path, ENTRIES)
    if source == "tokenizer.json":
        load_tokenizer(tmp_path).save(str(tmp_path / "tokenizer.json"))
        (tmp_path / "vocab.txt").unlink()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    found = load_tokenizer(tmp_path).encode("Hello \u00e9 中国").tokens
    assert [unicodedata.normalize("NFC", token) for token in found[1:-1]] == tokens


@pytest.mark.parametrize("name", REAL)
def test_saved_and_loaded_the_ids_are_the_same(shared: Path, tmp_path: Path, name: str) -> None:
    tokenizer, texts = load_tokenizer(shared / name), real_texts(shared)
    save_tokenizer(tokenizer, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    expected = [e.ids for e in tokenizer.encode_batch(texts)]
    assert [e.ids for e in load_tokenizer(tmp_path).encode_batch(texts)] == expected
    (tmp_path / "tokenizer.json").unlink()  # vocab.txt alone must do as well
    assert [e.ids for e in load_tokenizer(tmp_path).encode_batch(texts)] == expected
    original = (shared / name / "vocab.txt").read_bytes().removesuffix(b"\n")
    assert (tmp_path / "vocab.txt").read_bytes().removesuffix(b"\n") == original


def test_an_entry_twice_keeps_the_ids_of_those_after_it(tmp_path: Path) -> None:
    directory = write(tmp_path / "a", [*ENTRIES[:6], "world", *ENTRIES[6:], "hello", "end"])
    tokenizer = load_tokenizer(directory)
    save_tokenizer(tokenizer, tmp_path / "b")
    (tmp_path / "b" / "tokenizer.json").unlink()
    again = load_tokenizer(tmp_path / "b")
    for token in ("hello", "world", "a", "!", "end"):
        assert again.token_to_id(token) == tokenizer.token_to_id(token)
    assert tokenizer.token_to_id("end") == len(ENTRIES) + 2


@pytest.mark.parametrize("end", ["\n", "", "\r\n"])
def test_line_ends_of_any_system_are_no_part_of_an_entry(tmp_path: Path, end: str) -> None:
    separator = "\r\n" if end == "\r\n" else "\n"
    (tmp_path / "vocab.txt").write_bytes((separator.join(ENTRIES) + end).encode())
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.get_vocab() == {entry: i for i, entry in enumerate(ENTRIES)}


def test_a_save_that_fails_keeps_the_old_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "t"
    save_tokenizer(load_tokenizer(write(tmp_path, ENTRIES)), directory)
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    other = load_tokenizer(write(tmp_path, [*ENTRIES, "more"]))
    write_text = Path.write_text

    def full(path: Path, text: str, **options: Any) -> int:
        if "vocab" in path.name:  # the last of the three
            raise OSError(28, "No space left on device")
        return write_text(path, text, **options)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match="No space left"):
        save_tokenizer(other, directory)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


# ---- tokenizer.json -------------------------------------------------------------------------


def edit(path: Path, change: Any) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_tokenizer(load_tokenizer(write(tmp_path / "v", ENTRIES)), tmp_path / "saved")
    return tmp_path / "saved"


def test_truncation_and_padding_inside_tokenizer_json_are_taken_out(saved: Path) -> None:
    tokenizer = load_tokenizer(saved)
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=9, pad_id=0, pad_token="[PAD]")
    tokenizer.save(str(saved / "tokenizer.json"))
    loaded = load_tokenizer(saved)
    assert loaded.truncation is None and loaded.padding is None
    assert len(loaded.encode("hello " * 30).ids) == 32
    assert [len(e.ids) for e in loaded.encode_batch(["a", "a a a"])] == [3, 5]


def test_a_tokenizer_json_of_words_alone_gets_cls_sep_and_mask(saved: Path) -> None:
    """As `tokenizers` saves it after training, with nothing around the vocabulary."""
    edit(saved / "tokenizer.json", lambda j: j.update(added_tokens=[], post_processor=None))
    assert load_tokenizer(saved).encode("a[MASK]").tokens == ["[CLS]", "a", "[MASK]", "[SEP]"]


def test_another_kind_of_tokenizer_json_is_taken_as_it_is_and_saved_so(saved: Path) -> None:
    lower = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, {"type": "NFD"}]}
    edit(saved / "tokenizer.json", lambda j: j.update(normalizer=lower))
    edit(
        saved / "tokenizer_config.json",
        lambda c: c.update(tokenizer_class="PreTrainedTokenizerFast"),
    )
    tokenizer = load_tokenizer(saved)
    save_tokenizer(tokenizer, saved / "again")
    settings = json.loads((saved / "again" / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    for text in HARD:
        ids = Tokenizer.from_file(str(saved / "tokenizer.json")).encode(text).ids
        assert tokenizer.encode(text).ids == ids
        assert load_tokenizer(saved / "again").encode(text).ids == ids


# ---- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["vocab.txt", "tokenizer.json"])
@pytest.mark.parametrize("token", SPECIAL.values())
def test_a_vocabulary_without_a_special_token_is_refused(
    saved: Path, tmp_path: Path, token: str, source: str
) -> None:
    directory = write(tmp_path, [e for e in ENTRIES if e != token])
    if source == "tokenizer.json":
        directory = saved

        def drop(j: dict[str, Any]) -> None:
            del j["model"]["vocab"][token]
            j.update(added_tokens=[], post_processor=None)
            j["model"]["unk_token"] = "hello"

        edit(saved / "tokenizer.json", drop)
    with pytest.raises(
        UserError, match=rf"the vocabulary in .* has no \{token}, so it is not a BERT"
    ):
        load_tokenizer(directory)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"{}", b"[]", b"\xff\xfe", b'{"version": "1.0", "model": {}}']
)
def test_a_broken_tokenizer_json_is_refused(saved: Path, content: bytes) -> None:
    (saved / "tokenizer.json").write_bytes(content)
    with pytest.raises(UserError, match=r"tokenizer.json cannot be read as a tokenizer"):
        load_tokenizer(saved)


@pytest.mark.parametrize("encoding", ["utf-16", "gb18030"])
def test_a_vocabulary_in_another_encoding_is_refused(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "vocab.txt").write_bytes("\n".join(ENTRIES).encode(encoding))
    with pytest.raises(UserError, match=r"vocab.txt cannot be read as a vocabulary: .*utf-8"):
        load_tokenizer(tmp_path)


def test_an_empty_vocabulary_and_no_vocabulary_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither tokenizer.json nor vocab.txt"):
        load_tokenizer(tmp_path)
    with pytest.raises(UserError, match="has no"):
        load_tokenizer(write(tmp_path, []))


@pytest.mark.parametrize(
    ("name", "value"),
    [("do_lower_case", "false"), ("do_lower_case", None), ("strip_accents", 1)],
)
def test_a_setting_of_the_wrong_type_is_refused(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"tokenizer_config.json: {name} is .*true or false"):
        load_tokenizer(write(tmp_path, ENTRIES, **{name: value}))


def test_words_that_are_split_in_another_way_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="BertJapaneseTokenizer, which minibert does not implement"):
        load_tokenizer(write(tmp_path, ENTRIES, tokenizer_class="BertJapaneseTokenizer"))
    load_tokenizer(write(tmp_path, ENTRIES, tokenizer_class="DistilBertTokenizerFast"))
