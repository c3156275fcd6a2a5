"""Recordings as people have them: containers of FFmpeg, joined, cut off, or with a wrong header."""

import io
import logging
import re
import struct
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
from conftest import EXAMPLES, ROOT
from scipy.signal import correlate, resample_poly

from modelscope_ext.audio import AudioError, audio_files, open_audio
from modelscope_ext.cli import main

NOISY = soundfile.read(EXAMPLES / "noisy.wav", dtype="float32")[0]


def speech(rate, seconds=3.0, channels=1):
    """Return (N, channels) speech at a rate."""
    ratio = Fraction(rate, 16000)
    audio = resample_poly(NOISY[: round(seconds * 16000)], ratio.numerator, ratio.denominator)
    return np.repeat(np.float32(audio)[:, None], channels, 1)


def encoded(container, codec, audio, rate, bit_rate=128_000, video=False, options=None, path=None):
    """Return the bytes of a file that FFmpeg writes, and the number of its audio packets."""
    file, packets = io.BytesIO(), 0
    with av.open(str(path or "") or file, "w", format=container, options=options or {}) as out:
        if video:
            picture = out.add_stream("mpeg4", rate=25)
            picture.width = picture.height = 64
        stream = out.add_stream(codec, rate=rate)
        stream.layout, stream.bit_rate = ("mono", "stereo")[audio.shape[1] - 1], bit_rate
        if codec in ("tta", "wavpack"):
            stream.format = "s16" + "p" * (codec == "wavpack")
        if video:
            for number in range(25):
                image = av.VideoFrame(64, 64, "yuv420p")
                image.pts = number
                out.mux(picture.encode(image))
            out.mux(picture.encode(None))
        resampler = av.AudioResampler(stream.format, stream.layout, rate)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(audio.T), "fltp", stream.layout)
        frame.sample_rate, frame.pts = rate, 0
        for part in (*resampler.resample(frame), *resampler.resample(None), None):
            for packet in stream.encode(part):
                packets += packet.size > 0
                out.mux(packet)
    return file.getvalue(), packets


def sound_file(format, subtype, audio, rate):
    """Return the bytes of a file that libsndfile writes."""
    file = io.BytesIO()
    soundfile.write(file, audio, rate, subtype, format=format)
    return file.getvalue()


def read(content):
    """Return all samples of a file given as bytes, its rate and the warnings."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("modelscope_ext.audio")
    logger.addHandler(handler)
    try:
        with open_audio(io.BytesIO(content)) as file:
            blocks = [np.zeros((0, file.channels), np.float32), *file.blocks(0.7)]
            return np.concatenate(blocks), file.sample_rate, messages
    finally:
        logger.removeHandler(handler)


def lag_and_snr(audio, reference):
    """Return the delay of `audio` in samples, and its SNR in dB without the delay."""
    cross = correlate(audio, reference, method="fft")
    lag = int(np.argmax(cross)) - len(reference) + 1
    ours, theirs = audio[max(0, lag) :], reference[max(0, -lag) :]
    length = min(len(ours), len(theirs))
    error = ours[:length] - theirs[:length]
    return lag, 10 * np.log10(np.square(theirs).sum() / (np.square(error).sum() + 1e-12))


# Container, codec, rate, channels, lag, largest error of the length, SNR in dB. Raw aac, ac3 and amr do not give the
# delay of the encoder.
CONTAINERS = {
    "m4a": ("ipod", "aac", 48000, 1, 0, 0, 20),
    "m4a, alac": ("ipod", "alac", 44100, 2, 0, 0, 80),
    "mp4": ("mp4", "aac", 44100, 2, 0, 0, 20),
    "mov": ("mov", "pcm_s24le", 48000, 1, 0, 0, 110),
    "mkv": ("matroska", "libopus", 48000, 2, 0, 0, 10),
    "mkv, flac": ("matroska", "flac", 16000, 1, 0, 0, 80),
    "webm": ("webm", "libopus", 48000, 1, 0, 0, 10),
    "ogg, opus": ("ogg", "libopus", 48000, 1, 0, 0, 10),
    "mp3": ("mp3", "libmp3lame", 48000, 1, 0, 0, 20),
    "mp3 in mp4": ("mp4", "libmp3lame", 44100, 1, 0, 0, 20),
    "3gp": ("3gp", "libopencore_amrnb", 8000, 1, -10, 0, 1),
    "amr": ("amr", "libopencore_amrnb", 8000, 1, 40, 160, 1),
    "aac": ("adts", "aac", 48000, 1, 1024, 2048, 20),
    "ac3": ("ac3", "ac3", 48000, 1, 256, 1536, 20),
    "wma": ("asf", "wmav2", 44100, 1, 0, 2048, 20),
    "avi": ("avi", "pcm_s16le", 48000, 2, 0, 0, 70),
    "tta": ("tta", "tta", 48000, 1, 0, 0, 70),
    "wv": ("wv", "wavpack", 48000, 1, 0, 0, 70),
    "voc": ("voc", "pcm_u8", 8000, 1, 0, 0, 20),
    "voc, 16 bits": ("voc", "pcm_s16le", 16000, 2, 0, 0, 70),
    "caf, alac": ("caf", "alac", 44100, 2, 0, 0, 80),
    "caf, pcm": ("caf", "pcm_s24le", 48000, 1, 0, 0, 110),
    "3gp, aac": ("3gp", "aac", 16000, 1, 0, 0, 20),
    "eac3": ("eac3", "eac3", 48000, 1, 256, 1536, 20),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_containers_are_read_as_they_were_recorded(kind):
    container, codec, rate, channels, lag, padding, snr = CONTAINERS[kind]
    source = speech(rate, channels=channels)
    content, _ = encoded(container, codec, source, rate, 12_200 if "amr" in codec else 128_000)
    audio, sample_rate, warnings = read(content)
    assert warnings == []
    assert sample_rate == rate
    assert audio.shape[1] == channels
    assert audio.dtype == np.float32
    assert abs(len(audio) - len(source)) <= padding
    found, quality = lag_and_snr(audio[:, 0], source[:, 0])
    assert found == lag
    assert quality > snr


@pytest.mark.parametrize(("container", "suffix"), [("mp4", "mp4"), ("mov", "mov"), ("matroska", "mkv")])
def test_the_sound_of_a_video_is_taken_out(tmp_path, container, suffix):
    source = speech(48000, channels=2)
    (tmp_path / f"talk.{suffix}").write_bytes(encoded(container, "aac", source, 48000, video=True)[0])
    target = tmp_path / "talk.wav"
    assert main(["denoise", "-q", "--wet", "0", str(tmp_path / f"talk.{suffix}"), "-o", str(target)]) == 0
    audio, rate = soundfile.read(target, dtype="float32")
    assert rate == 48000
    assert 0 <= len(audio) - len(source) < 1024  # matroska stores no end within a packet
    lag, quality = lag_and_snr(audio[:, 1], source[:, 1])
    assert lag == 0
    assert quality > 20


def test_a_track_can_be_chosen():
    file, rate = io.BytesIO(), 16000
    with av.open(file, "w", format="matroska") as out:
        streams = [out.add_stream("pcm_s16le", rate=rate, layout="mono") for _ in range(2)]
        for stream, value in zip(streams, (1000, 2000), strict=True):
            frame = av.AudioFrame.from_ndarray(np.full((1, rate), value, np.int16), "s16", "mono")
            frame.sample_rate, frame.pts = rate, 0
            out.mux(stream.encode(frame))
    for track, value in enumerate((1000, 2000)):
        with open_audio(io.BytesIO(file.getvalue()), track=track) as opened:
            assert np.unique(np.concatenate(list(opened.blocks(1.0)))).tolist() == [value / 32768]
    with pytest.raises(AudioError, match="no audio track 2; there are 2"), open_audio(file, track=2):
        pass


# Joined and of unknown length


def test_an_mp3_of_variable_bitrate_without_a_header_is_read_whole():
    content, packets = b"", 0
    for bit_rate in (320_000, 32_000, 128_000, 64_000):
        part, count = encoded(
            "mp3", "libmp3lame", speech(44100, 4.0), 44100, bit_rate, options={"write_xing": "0", "id3v2_version": "0"}
        )
        content, packets = content + part, packets + count
    audio, _, warnings = read(content)
    assert len(audio) == 1152 * packets
    assert warnings == []


@pytest.mark.parametrize(
    ("format", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS"), ("FLAC", "PCM_16"), ("WAV", "PCM_16"), ("AIFF", None)]
)
def test_joined_recordings_are_read_to_the_last(format, subtype):
    parts = [speech(16000, 2.0), speech(16000, 3.0)[::-1], speech(16000, 1.0)]
    files = [sound_file(format, subtype, part, 16000) for part in parts]
    expected = np.concatenate([soundfile.read(io.BytesIO(file), dtype="float32", always_2d=True)[0] for file in files])
    audio, _, warnings = read(b"".join(files))
    assert np.array_equal(audio, expected)
    assert warnings == []


def test_a_joined_recording_of_another_form_takes_that_of_the_first():
    first, second = (
        sound_file("OGG", "VORBIS", speech(16000), 16000),
        sound_file("OGG", "OPUS", speech(48000, 2, 2), 48000),
    )
    audio, rate, _ = read(first + second)
    assert rate == 16000
    assert audio.shape == (5 * 16000, 1)
    lag, quality = lag_and_snr(audio[3 * 16000 :, 0], speech(16000, 2.0)[:, 0])
    assert lag == 0
    assert quality > 10
    back = read(second + first)[0]
    assert back.shape == (5 * 48000, 2)
    with pytest.raises(AudioError, match="changes from 2 to 3 channels"):
        read(second + sound_file("OGG", "VORBIS", speech(16000, 1.0, 3), 16000))


def test_joined_mp3s_are_read_to_the_last():
    parts = [encoded("mp3", "libmp3lame", speech(44100, seconds), 44100)[0] for seconds in (3.0, 2.0)]
    assert parts[1].startswith(b"ID3")  # a tag in the middle
    audio, _, warnings = read(b"".join(parts))
    assert warnings == []
    assert 0 <= len(audio) - 5 * 44100 < 3 * 1152  # padding at the seam
    second = audio[3 * 44100 :, 0]
    assert lag_and_snr(second, speech(44100, 2.0)[:, 0])[1] > 20


def test_an_mp3_that_changes_its_rate_keeps_the_first(tmp_path):
    parts = [encoded("mp3", "libmp3lame", speech(rate), rate, 64_000)[0] for rate in (44100, 22050)]
    audio, rate, _ = read(b"".join(parts))
    assert rate == 44100
    assert abs(len(audio) - 6 * 44100) < 6000


def test_flac_of_unknown_length_is_read_whole():
    content = bytearray(sound_file("FLAC", "PCM_16", speech(16000), 16000))
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    audio, _, warnings = read(bytes(content))
    assert np.array_equal(audio, read(sound_file("WAV", "PCM_16", speech(16000), 16000))[0])
    assert warnings == []


# Headers that lie


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000, 2000])
@pytest.mark.parametrize("consistent", [True, False])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "ULAW"])
def test_a_wav_whose_size_is_wrong_is_read_whole(size, consistent, subtype):
    content = bytearray(sound_file("WAV", subtype, speech(16000, channels=2), 16000))
    expected = soundfile.read(io.BytesIO(content), dtype="float32")[0]
    at = content.index(b"data") + 4
    struct.pack_into("<I", content, at, size)
    if consistent:
        struct.pack_into("<I", content, 4, min(size + at - 4, 0xFFFFFFFF))
    audio, _, warnings = read(bytes(content))
    assert np.array_equal(audio, expected)
    assert len(warnings) == (size == 2000)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 2000])
@pytest.mark.parametrize(("format", "chunk", "gap"), [("AIFF", b"SSND", 8), ("AU", b".snd", 0)])
def test_aiff_and_au_whose_size_is_wrong_are_read_whole(format, chunk, gap, size):
    content = bytearray(sound_file(format, "PCM_16", speech(16000), 16000))
    expected = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)[0]
    struct.pack_into(">I", content, content.index(chunk) + 8 - 4 * (gap > 0), size)
    audio, _, _ = read(bytes(content))
    assert np.array_equal(audio[: len(expected)], expected)
    assert len(audio) == len(expected)


def test_chunks_and_tags_after_the_samples_are_no_sound():
    content = sound_file("WAV", "PCM_16", speech(16000), 16000)
    for tail in (b"LIST\x04\0\0\0INFO", b"TAG" + bytes(125), b"ID3\4" + bytes(200), b"\0"):
        audio, _, warnings = read(content + tail)
        assert len(audio) == 3 * 16000
        assert warnings == []
    with open_audio(io.BytesIO(sound_file("WAV", "PCM_16", np.zeros((0, 1)), 16000) + b"LIST\x04\0\0\0INFO")) as file:
        assert list(file.blocks(1.0)) == []


@pytest.mark.parametrize("tail", [b"", b"LIST\x04\0\0\0INFO"])
def test_a_wav_beyond_4_gib_has_all_its_samples(tmp_path, tail):
    rate, channels = 192_000, 8
    count = 2**32 // (4 * channels) + 100_000
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 0, b"WAVE", b"fmt ", 16, 1, channels, rate, rate * 32, 32, 32)
    path = tmp_path / "long.wav"
    with path.open("wb") as file:  # a hole, which takes no place on the disk
        file.write(head + b"data" + struct.pack("<I", count * 32 % 2**32))
        file.truncate(44 + count * 32)
        file.seek(44 + 32 * (count - 1))
        file.write(bytes([0, 0, 0, 64]) * channels + tail)
    with open_audio(path) as file:
        assert file.seconds == count / rate
        assert file.channels == channels
        assert not next(file.blocks(1.0)).any()


@pytest.mark.parametrize("length", [2**62, 2**63 - 8, 2**64 - 8, 2**64 - 1])
def test_a_chunk_that_claims_more_than_any_disk_has_is_an_error_or_no_loss(length):
    content = bytearray(sound_file("W64", "PCM_16", speech(16000, 1.0), 16000))
    content[40 + 16 : 40 + 24] = length.to_bytes(8, "little")  # of the chunk "fmt "
    try:
        audio, _, _ = read(bytes(content))
    except AudioError:
        return
    assert len(audio) == 16000


def test_blocks_of_an_mp3_file_of_few_bits_are_those_of_the_whole():
    """Soundfile seeks after each block, and then frames lack bits that the frames before hold."""
    content, _ = encoded("mp3", "libmp3lame", speech(44100), 44100, 32_000)
    expected = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)[0]
    audio, _, _ = read(content)
    assert np.abs(audio - expected).max() < 1e-5


@pytest.mark.parametrize("format", ["WAV", "OGG"])
def test_a_file_without_samples_is_a_warning(format):
    content = io.BytesIO()
    soundfile.write(content, np.zeros(0), 16000, format=format)
    audio, _, warnings = read(content.getvalue())
    assert audio.shape == (0, 1)
    assert warnings == ["it has no samples; 0.00 s were read"]


@pytest.mark.parametrize("content", [b"RIFF\0\0", b"FORM", b"RIFF\4\0\0\0WAVE", b"fLaC", b"fLaC" + bytes(60)])
def test_a_beginning_alone_is_an_error(content):
    with pytest.raises(AudioError):
        read(content)


# Cut off

SOUND_FILES = [
    *(("WAV", kind) for kind in ("PCM_16", "PCM_24", "FLOAT", "ULAW", "IMA_ADPCM")),
    *((kind, "PCM_16") for kind in ("RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "VOC", "NIST")),
    ("CAF", "ALAC_16"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
]


@pytest.mark.parametrize(("format", "subtype"), SOUND_FILES)
def test_of_a_cut_off_sound_file_all_that_is_there_is_read(format, subtype):
    content = sound_file(format, subtype, speech(16000, 6.0), 16000)
    expected = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)[0]
    audio, _, warnings = read(content[: len(content) // 2 + 5])
    assert 0.3 < len(audio) / len(expected) < 0.6
    assert len(warnings) == 1
    assert f"{len(audio) / 16000:.2f} s were read" in warnings[0]
    inside = slice(0, len(audio) - 2000)
    assert np.abs(audio[inside] - expected[: len(audio)][inside]).max() < (0.01 if format == "MP3" else 1e-6)


@pytest.mark.parametrize("kind", ["mkv", "webm", "mp3", "amr", "ac3", "aac", "wma", "avi"])
def test_of_a_cut_off_container_all_that_is_there_is_read(kind):
    container, codec, rate, channels, *_ = CONTAINERS[kind]
    content, _ = encoded(container, codec, speech(rate, 6.0, channels), rate, 12_200 if "amr" in codec else 128_000)
    whole = read(content)[0]
    audio, _, warnings = read(content[: len(content) // 2 + 17])
    assert 0.4 < len(audio) / len(whole) < 0.6
    assert len(warnings) == 1
    assert f"{len(audio) / rate:.2f} s were read" in warnings[0]


def test_of_a_cut_off_m4a_is_read_what_its_index_reaches(tmp_path):
    options = {"movflags": "faststart"}
    content, _ = encoded("ipod", "aac", speech(48000, 6.0), 48000)
    with pytest.raises(AudioError, match=r"cut off, it has \d+ of \d+ bytes"):  # the index is at the end
        read(content[: len(content) // 2])
    path = tmp_path / "memo.m4a"
    encoded("ipod", "aac", speech(48000, 6.0), 48000, options=options, path=path)
    content = path.read_bytes()
    audio, _, warnings = read(content[: len(content) // 2])
    assert 0.3 < len(audio) / (6 * 48000) < 0.6
    assert len(warnings) == 1


def test_a_damaged_middle_is_reported_and_the_rest_is_read():
    content = bytearray(sound_file("FLAC", "PCM_16", speech(16000, 6.0), 16000))
    middle = len(content) // 2
    content[middle : middle + 300] = b"\x55" * 300
    audio, _, warnings = read(bytes(content))
    expected = read(sound_file("WAV", "PCM_16", speech(16000, 6.0), 16000))[0]
    assert np.array_equal(audio[-16000:], expected[-16000:])
    assert len(warnings) == 1


def test_nothing_readable_is_an_error():
    for content in (b"", b"this is a letter to my aunt", np.random.default_rng(0).bytes(20_000)):
        with pytest.raises(AudioError, match="not readable as audio"):
            read(content)


def test_play_lists_open_no_other_file(tmp_path):
    soundfile.write(tmp_path / "secret.wav", speech(16000), 16000)
    for name, text in {
        "a.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nsecret.wav\n#EXT-X-ENDLIST\n",
        "b.m4a": "ffconcat version 1.0\nfile secret.wav\n",
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(AudioError, match="not readable as audio"), open_audio(tmp_path / name):
            pass


@pytest.mark.parametrize("kind", ["OPUS", "VORBIS"])
def test_a_damaged_or_lost_page_of_an_ogg_file_is_reported(kind):
    content = sound_file("OGG", kind, speech(48000, 6.0), 48000)
    pages = [at for at in range(len(content)) if content[at : at + 4] == b"OggS"]
    assert len(pages) > 4
    flipped = bytearray(content)
    flipped[(pages[3] + pages[4]) // 2] ^= 1
    for damaged in (bytes(flipped), content[: pages[3]] + content[pages[4] :]):
        audio, _, warnings = read(damaged)
        assert len(audio) <= 6 * 48000  # a decoder may fill a gap
        assert len(warnings) == 1
        assert "1 damaged pages; " in warnings[0]
        assert f"{len(audio) / 48000:.2f} s were read" in warnings[0]


def test_damage_in_the_middle_of_a_webm_is_reported():
    content, _ = encoded("webm", "libopus", speech(48000, 7.0), 48000, options={"cluster_time_limit": "1000"})
    clusters = [at for at in range(len(content)) if content[at : at + 4] == bytes.fromhex("1f43b675")]
    for at, value in ((clusters[5], 0), (clusters[5] + 4, 0x2F)):
        damaged = bytearray(content)
        damaged[at] = value
        audio, _, warnings = read(bytes(damaged))
        assert len(audio) < len(read(content)[0])
        assert len(warnings) == 1
        assert re.search(r"damaged at byte \d+ of", warnings[0])
        assert f"{len(audio) / 48000:.2f} s were read" in warnings[0]


def test_an_mp3_with_fewer_samples_than_its_header_promises_is_reported():
    content, _ = encoded("mp3", "libmp3lame", speech(44100, 6.0), 44100)
    middle = len(content) // 2
    damaged = content[:middle] + bytes(9000) + content[middle + 9000 :]
    audio, _, warnings = read(damaged)
    assert len(audio) < 6 * 44100
    assert len(warnings) == 1


def test_an_mp3_whose_header_counts_too_few_frames_is_read_to_the_end():
    content, _ = encoded("mp3", "libmp3lame", speech(44100, 6.0), 44100)
    at = max(content.find(b"Xing"), content.find(b"Info")) + 8
    (frames,) = struct.unpack_from(">I", content, at)
    whole, _, _ = read(content)
    for count in (1, frames // 2):
        audio, _, _ = read(content[:at] + struct.pack(">I", count) + content[at + 4 :])
        assert len(whole) <= len(audio) + 1152 <= len(whole) + 5 * 1152


@pytest.mark.parametrize("by", ["libsndfile", "FFmpeg"])
def test_sound_within_a_tag_of_a_wrong_size_is_reported(by):
    options = {"id3v2_version": "3", "write_xing": str(int(by == "libsndfile"))}
    content, _ = encoded("mp3", "libmp3lame", speech(44100, 6.0), 44100, options=options)
    if content[:3] != b"ID3":
        content = b"ID3\3\0\0\0\0\0\x14" + bytes(20) + content
    whole, _, warnings = read(content)
    assert not warnings
    grown = content[:8] + bytes([content[8] + 60]) + content[9:]  # 7,680 bytes
    assert grown[8] < 128
    audio, _, warnings = read(grown)
    assert len(audio) < len(whole)
    assert len(warnings) == 1
    assert "sound lies within its ID3 tag, whose size is wrong" in warnings[0]


# Commands


def test_a_cut_off_file_is_denoised_with_a_warning(tmp_path):
    content = sound_file("FLAC", "PCM_16", speech(16000, 6.0), 16000)
    (tmp_path / "talk.flac").write_bytes(content[: len(content) // 2])
    command = [sys.executable, "-m", "modelscope_ext", "denoise", "-q", tmp_path / "talk.flac", "-o", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    errors = done.stderr
    assert errors.count("\n") == 1
    assert "talk.flac: " in errors
    assert soundfile.info(tmp_path / "out" / "talk.flac").frames == len(read(content[: len(content) // 2])[0])


def test_an_mp3_in_name_only_is_not_recognised(tmp_path):
    (tmp_path / "bad.mp3").write_bytes(b"junk\n")
    with (
        pytest.raises(AudioError, match=r"bad.mp3: not readable as audio \(Format not recognised\)"),
        open_audio(tmp_path / "bad.mp3"),
    ):
        pass


def test_an_output_that_cannot_be_written_is_refused_before_any_work(tmp_path, capsys):
    source = EXAMPLES / "noisy.wav"
    for name in ("x.ape", "x.DTS", "x.mpc"):
        assert main(["denoise", "-q", str(source), "-o", str(tmp_path / name)]) == 1
        errors = capsys.readouterr().err
        assert f"{name}: cannot be written; one of .3g2, " in errors
    assert main(["denoise", "-q", str(source), "-o", str(tmp_path / "x.xyz")]) == 1
    errors = capsys.readouterr().err
    assert "x.xyz: no audio format has this suffix; one of .3g2, " in errors
    assert "Create it first if it is meant to be a folder" in errors
    assert list(tmp_path.iterdir()) == []
    for folder in ("talks.2026-11", "x.xyz"):  # a folder by its name, a folder that exists
        (tmp_path / "x.xyz").mkdir(exist_ok=True)
        assert main(["denoise", "-q", str(source), "-o", str(tmp_path / folder)]) == 0
        assert (tmp_path / folder / "noisy.wav").exists()


def test_files_in_a_folder_that_cannot_be_written_back_are_reported(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "memo.ape").write_bytes(sound_file("WAV", "PCM_16", speech(16000), 16000)[:40])
    soundfile.write(tmp_path / "in" / "talk.wav", speech(16000), 16000)
    assert [path.name for path in audio_files(tmp_path / "in")] == ["memo.ape", "talk.wav"]
    assert main(["denoise", "-q", str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 1
    errors = capsys.readouterr().err
    assert "memo.ape: " in errors
    assert "1 of 2 files failed" in errors
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["talk.wav"]


@pytest.mark.parametrize(("source", "subtype"), [("MP3", "PCM_16"), ("OGG", "PCM_16"), ("FLAC", "PCM_24")])
def test_lossy_files_become_pcm_in_a_wav(denoiser, tmp_path, source, subtype):
    path = tmp_path / f"talk.{source.lower()}"
    soundfile.write(path, speech(16000), 16000, subtype if source == "FLAC" else None, format=source)
    denoiser.file(path, tmp_path / "talk.wav")
    info = soundfile.info(tmp_path / "talk.wav")
    assert (info.format, info.subtype, info.frames) == ("WAV", subtype, 3 * 16000)


def test_a_webm_that_ends_early_gives_its_promised_length():
    content, _ = encoded("webm", "libopus", speech(48000, 6.0), 48000)
    assert "of 6.0" in read(content[: len(content) // 2])[2][0]


def test_a_track_without_a_decoder_is_an_error():
    content = bytearray(encoded("ipod", "aac", speech(48000), 48000)[0])
    at = content.index(b"mp4a", content.index(b"stsd"))
    content[at : at + 4] = b"zzzz"
    at = content.index(b"\x40\x15", content.index(b"esds"))
    content[at] = 0xFE
    with pytest.raises(AudioError, match="not readable as audio"):
        read(bytes(content))
