"""What files of telephones, cameras, editors and broadcasts have beside their sound."""

import subprocess

import av
import imageio_ffmpeg
import numpy as np
import pytest
import soundfile
from conftest import EXAMPLES, speech

from modelscope_ext.audio import AudioError, audio_files, open_audio

NOISY = ("-i", EXAMPLES / "noisy.wav")
PICTURE = ("-f", "lavfi", "-i", "testsrc=size=64x64:rate=25:duration=1", *NOISY, "-t", "1", "-c:v", "mpeg4")


def make(path, *options):
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *options, path], check=True)
    return path


def denoised(dry, path):
    dry.file(path, path.parent / "out" / path.name)
    return path.parent / "out" / path.name


def described(path):
    """Return the tags of a file, and kind, four-character code and tags of its streams."""
    with av.open(str(path)) as file:
        streams = [
            (each.type, each.codec_context and each.codec_context.codec_tag, dict(each.metadata))
            for each in file.streams
        ]
        return dict(file.metadata), streams


def test_time_code_place_and_titles_of_a_mov_are_kept(dry, tmp_path, caplog):
    own = {"com.apple.quicktime.make": "Apple", "com.apple.quicktime.location.ISO6709": "+48.1+011.5/"}
    tags = [part for name, value in own.items() for part in ("-metadata", f"{name}={value}")]
    options = ("-movflags", "use_metadata_tags", "-timecode", "01:02:03:04", "-metadata:s:a:0", "title=Lapel")
    source = make(tmp_path / "a.mov", *PICTURE, *options, *tags)
    before, after = described(source), described(denoised(dry, source))
    assert own.items() <= before[0].items()
    assert own.items() <= after[0].items()
    assert [(kind, code) for kind, code, _ in after[1]] == [(kind, code) for kind, code, _ in before[1]]
    assert after[1][0][2]["timecode"] == "01:02:03:04"
    assert after[1][1][2].get("name", after[1][1][2].get("title")) == "Lapel"
    assert caplog.text == ""


def test_the_code_of_a_picture_is_kept(dry, tmp_path):
    source = make(tmp_path / "a.avi", *PICTURE, "-vtag", "XVID")
    assert described(denoised(dry, source))[1][0][1] == "XVID"


@pytest.mark.parametrize("flags", ["+faststart", "0"])
def test_the_index_of_an_mp4_stays_in_its_place(dry, tmp_path, caplog, flags):
    source = make(tmp_path / "a.mp4", *PICTURE, "-movflags", flags, "-metadata", "title=Talk")
    target = denoised(dry, source)
    content = target.read_bytes()
    assert (content.index(b"moov") < content.index(b"mdat")) == (flags == "+faststart")
    make(tmp_path / "all.wav", "-i", target)
    assert soundfile.info(tmp_path / "all.wav").frames == soundfile.info(make(tmp_path / "b.wav", "-i", source)).frames
    assert described(target)[0]["title"] == "Talk"
    dry.file(source, tmp_path / "loud.mp4", loudness=-16)
    assert caplog.text == ""


@pytest.mark.parametrize("name", ["Radio Zwei", "Café Жизнь"])
def test_the_name_of_a_broadcast_service_is_kept(dry, tmp_path, name):
    source = make(tmp_path / "a.ts", *PICTURE, "-metadata", f"service_name={name}", "-metadata", "service_provider=WDR")
    target = denoised(dry, source)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", target]
    report = subprocess.run(command, stderr=subprocess.PIPE, check=False).stderr.decode()
    assert [line.split(":")[1].strip() for line in report.splitlines() if "service_" in line] == [name, "WDR"]


def test_names_of_several_services_are_left_out_with_a_warning(dry, tmp_path, caplog):
    programs = ("-map", "0:v", "-map", "1:a", "-program", "title=One:st=0", "-program", "title=Two:st=1")
    denoised(dry, make(tmp_path / "a.ts", *PICTURE, *programs, "-f", "mpegts"))
    assert "names of 2 services are left out" in caplog.text


def test_a_stream_that_a_sound_file_has_no_place_for_is_left_out_with_a_warning(dry, tmp_path, caplog):
    make(tmp_path / "a.mp4", *PICTURE).rename(tmp_path / "a.m4a")
    denoised(dry, tmp_path / "a.m4a")
    assert "a.m4a: stream 0, video, is left out" in caplog.text


def test_numbers_of_streams_and_the_form_of_a_camera_are_kept(dry, tmp_path):
    numbers = ("-streamid", "0:4113", "-streamid", "1:4352")
    source = make(tmp_path / "a.mts", *PICTURE, *numbers, "-mpegts_m2ts_mode", "1", "-f", "mpegts")
    target = denoised(dry, source)
    assert target.read_bytes()[4::192][:9] == b"G" * 9
    with av.open(str(target)) as file:
        assert [stream.id for stream in file.streams] == [4113, 4352]


def test_a_broadcast_that_changes_its_channels_is_mixed(dry, tmp_path, caplog):
    parts = [make(tmp_path / f"{n}.ts", *NOISY, "-t", "1", "-ac", n, "-c:a", "ac3", "-ar", "48000") for n in ("2", "6")]
    (tmp_path / "a.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    with open_audio(tmp_path / "a.ts") as file:
        audio = np.concatenate(list(file.blocks(1.0)))
    assert audio.shape[1] == 2
    assert 1.9 < len(audio) / 48000 < 2.2
    assert 0.5 < audio[60_000:].std() / audio[:36_000].std() < 2
    assert "it changes from 2 to 6 channels, which are mixed" in caplog.text


def test_tags_of_a_flac_file_behind_a_foreign_tag_are_kept(dry, tmp_path, caplog):
    make(tmp_path / "plain.flac", *NOISY, "-t", "1", "-metadata", "title=Grüße")
    source = tmp_path / "a.flac"
    source.write_bytes(b"ID3\4\0\0\0\0\0\x0a" + bytes(10) + (tmp_path / "plain.flac").read_bytes())
    assert described(denoised(dry, source))[0]["title"] == "Grüße"
    assert caplog.text == ""


def test_32_bits_of_a_flac_file_become_24_with_a_warning(dry, tmp_path, caplog):
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 16000), 16000, "PCM_32")
    bits = ("-sample_fmt", "s32", "-bits_per_raw_sample", "32", "-strict", "experimental")
    source = make(tmp_path / "a.flac", "-i", tmp_path / "a.wav", *bits)
    assert source.read_bytes()[20] & 1
    assert source.read_bytes()[21] >> 4 == 15
    denoised(dry, source)
    assert "a.flac: 24 bits are written" in caplog.text


def test_a_picture_gets_the_code_of_another_container(dry, tmp_path):
    source = make(tmp_path / "a.mp4", *PICTURE)
    dry.file(source, tmp_path / "a.avi")
    assert described(source)[1][0][1] == "mp4v"
    assert described(tmp_path / "a.avi")[1][0][1] == "FMP4"


@pytest.mark.parametrize("order", ["LITTLE", "BIG"])
def test_an_aiff_file_keeps_its_byte_order(dry, tmp_path, order):
    soundfile.write(tmp_path / "a.aifc", speech(16000, 1.0), 16000, "PCM_16", order, "AIFF")
    target = denoised(dry, tmp_path / "a.aifc")
    assert (b"sowt" in target.read_bytes()[:64]) == (order == "LITTLE")


def test_the_title_of_alac_in_a_caf_file_is_read_by_others(dry, tmp_path):
    source = make(tmp_path / "a.caf", *NOISY, "-t", "1.01", "-c:a", "alac", "-metadata", "title=Grüße")
    assert described(denoised(dry, source))[0]["title"] == "Grüße"


def test_a_name_of_another_kind_loses_tags_with_the_reason(dry, tmp_path, caplog):
    make(tmp_path / "a.m4a", *NOISY, "-t", "1", "-metadata", "title=A").rename(tmp_path / "a.mp3")
    denoised(dry, tmp_path / "a.mp3")
    assert "a.mp3: MPEG_LAYER_III is written, as no encoder for its codec fits this name" in caplog.text
    assert "a.mp3: not all of its tags are copied (its content is of another kind than its name)" in caplog.text


@pytest.mark.parametrize("kind", ["mp3", "adts", "flv", "w64", "mpegts"])
def test_files_without_a_suffix_are_found_by_content(tmp_path, kind):
    options = ("-id3v2_version", "0") if kind == "mp3" else ()
    make(tmp_path / kind, *NOISY, "-t", "1", "-ar", "44100", *options, "-f", kind)
    (tmp_path / "text").write_text("Grüße", encoding="utf-16")
    (tmp_path / "gone.wav").symlink_to("nowhere")
    problems = {}
    assert [path.name for path in audio_files(tmp_path, problems)] == [kind]
    assert problems == {str(tmp_path / "gone.wav"): "is no file"}


@pytest.mark.parametrize("suffix", ["wav", "aiff"])
def test_a_joined_file_comes_back_as_one_that_others_read(dry, tmp_path, suffix):
    soundfile.write(tmp_path / f"a.{suffix}", speech(16000, 1.0), 16000)
    (tmp_path / f"b.{suffix}").write_bytes(3 * (tmp_path / f"a.{suffix}").read_bytes())
    target = denoised(dry, tmp_path / f"b.{suffix}")
    assert soundfile.info(target).frames == 48_000
    assert target.stat().st_size < 97_000


def test_a_rate_without_a_conversion_is_an_error_with_the_name(dry, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(1000), 158_957)
    with pytest.raises(AudioError, match=r"a\.wav: 158957 Hz and 16000 Hz"):
        denoised(dry, tmp_path / "a.wav")
