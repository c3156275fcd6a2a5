"""The mixer's noises, rooms and devices, by their effect on the signal."""

import numpy as np
import pytest

from modelscope_ext.data.corpus import Corpus
from modelscope_ext.data.degrade import code, telephone
from modelscope_ext.data.mixing import MixConfig, Mixer, active_rms
from modelscope_ext.data.noises import click_train, coloured

RATE = 16000
TIME = np.arange(2 * RATE) / RATE
PLAIN = {"spectral_share": 0, "babble_share": 0, "coloured_share": 0, "clean_share": 0, "silent_share": 0}
STILL = {"speed_share": 0, "pause_share": 0, "dry_share": 1}
DEVICES = ("dc_share", "clip_share", "telephone_share", "low_pass_share", "codec_share")
NOISES = ("babble_share", "coloured_share", "music_share", "impact_share")


def corpus(*clips):
    """Return a corpus in memory."""
    samples = np.concatenate([np.rint(clip * 32767).astype(np.int16) for clip in clips])
    names = [f"{i}.wav" for i in range(len(clips))]
    return Corpus(samples, np.cumsum([0, *map(len, clips)]), names, {}, RATE)


def tone(hz):
    return 0.3 * np.sin(2 * np.pi * hz * TIME)


def white(seed):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, 4 * RATE)


def tones_mixer(seed=1, kinds=True, rooms=(), **options):
    """Speech of 250 Hz, noise of 1 kHz, music of 2 kHz, impacts of 3 kHz."""
    noise = [(corpus(tone(hz)), 1.0) for hz in (1000, 2000, 3000)]
    config = MixConfig(**{"seconds": 1.0, **PLAIN, **STILL, **options})
    return Mixer(
        [(corpus(tone(250)), 1.0)],
        noise,
        list(rooms),
        config,
        seed,
        noise_kinds={1: "music", 2: "impact"} if kinds else None,
    )


def loudest_hz(pair):
    noise = np.subtract(*pair) * np.hanning(len(pair[0]))
    return int(np.argmax(np.abs(np.fft.rfft(noise))))


def test_a_default_configuration_gives_the_samples_of_older_versions():
    voices = [tone(hz) * (np.sin(2 * np.pi * 3 * TIME) > 0) for hz in (150, 220, 310)]
    rooms = [np.r_[1, np.zeros(gap), 0.5].astype(np.float32) for gap in (400, 900, 2500)]
    noise = [(corpus(tone(1000), tone(2000)), 1.0)]
    mixer = Mixer([(corpus(*voices), 1.0)], noise, rooms, MixConfig(seconds=1.0), 7)
    older = {
        0: [0.0051, 0.0039, 0.0063, 0.0051, 0.0, -0.0034, 0.0034, 0.0],
        1: [0.0225, -0.0567, -0.0216, -0.0192, 0.0314, -0.0351, 0.0, -0.0046],
        3: [0.0919, 0.0799, -0.2022, 0.0206, 0.0025, 0.0022, -0.2016, 0.0212],
        11: [0.0209, 0.0188, 0.0318, 0.0154, -0.006, -0.0081, 0.0001, -0.0116],
        12: [0.0587, 0.0608, 0.0089, 0.0089, 0.0562, 0.0519, 0.0, 0.0],
    }
    for index, values in older.items():
        noisy, target = mixer[index]
        assert np.allclose(np.r_[noisy[3000::4000], target[3000::4000]], values, atol=1e-4)


def test_same_seed_same_bytes_with_every_feature():
    shares = dict.fromkeys((*DEVICES, "noise_room_share", "same_room_share", "gap_share", "rumble_share"), 0.5)
    kinds = dict.fromkeys(NOISES, 0.2)
    rooms = [[np.r_[1, np.zeros(gap), 0.5].astype(np.float32) for gap in gaps] for gaps in ((400, 900), (70, 800))]
    options = {**shares, **kinds, "silent_share": 0.1, "level_uniform": True, "dry_share": 0.3, "rooms": rooms}
    first, again, other = (tones_mixer(seed, **options) for seed in (1, 1, 2))
    for i in range(25):
        for a, b, c in zip(first[i], again[i], other[i], strict=True):
            assert a.dtype == np.float32
            assert a.shape == (RATE,)
            assert np.isfinite(a).all()
            assert np.abs(a).max() <= 1
            assert np.array_equal(a, b)
            assert not np.array_equal(a, c) or not a.any()


ECHOES = {300: 0, 700: 0, 1100: 0, 2000: 1, 2500: 1}  # delay of a response: its room
DELAYS = [[300, 700, 1100], [2000, 2500]]


def echo_of(audio):
    """Return the delay of the echo in white noise."""
    spectrum = np.abs(np.fft.rfft(audio, 2 * len(audio))) ** 2
    correlation = np.fft.irfft(spectrum)[200:4000]
    assert correlation.max() > 5 * np.std(correlation)
    return int(np.argmax(correlation)) + 200


def echoes(**options):
    """Yield the echo of the speech and of the noise in each mixture; all is white and the target has its whole room."""
    rooms = [[np.r_[1, np.zeros(delay - 1), 0.8].astype(np.float32) for delay in room] for room in DELAYS]
    config = MixConfig(
        **{"seconds": 2.0, "snr_db": (0, 0), "target_t60": 1e9, **PLAIN, **STILL, "dry_share": 0}, **options
    )
    mixer = Mixer([(corpus(white(1)), 1.0)], [(corpus(white(2)), 1.0)], rooms, config, 1)
    for i in range(30):
        noisy, target = mixer[i]
        yield echo_of(target), echo_of(noisy - target)


def test_noise_is_at_another_position_of_the_same_room():
    pairs = list(echoes(noise_room_share=1.0, same_room_share=1.0))
    assert all(ECHOES[speech] == ECHOES[noise] and speech != noise for speech, noise in pairs)
    assert {noise for _, noise in pairs} == set(ECHOES)


def test_noise_is_in_another_room():
    pairs = list(echoes(noise_room_share=1.0, same_room_share=1e-9))
    assert all(ECHOES[speech] != ECHOES[noise] for speech, noise in pairs)


def test_noise_in_a_room_has_its_full_reverberation_at_once():
    rng = np.random.default_rng(0)
    late = rng.standard_normal(RATE) * np.exp(-6.9 / 1.5 * np.arange(RATE) / RATE)
    room = np.r_[1, np.zeros(999), late].astype(np.float32)
    options = {**PLAIN, **STILL, "noise_room_share": 1.0}
    mixer = Mixer([(corpus(tone(250)), 1.0)], [(corpus(white(2)), 1.0)], [room], MixConfig(seconds=1.0, **options), 1)
    power = np.mean([np.subtract(*mixer[i]).reshape(10, -1).var(1) for i in range(20)], 0)
    assert power == pytest.approx(power.mean(), rel=0.25)


def test_music_and_impacts_come_only_by_their_shares():
    def heard(**options):
        mixer = tones_mixer(synthetic_impact_share=0.0, **options)
        return [loudest_hz(mixer[i]) for i in range(60)]

    assert set(heard()) == {1000}
    assert set(heard(music_share=1.0)) == {2000}
    assert set(heard(impact_share=1.0)) == {3000}
    some = heard(music_share=0.3, impact_share=0.3)
    assert {hz: 8 < some.count(hz) < 35 for hz in (1000, 2000, 3000)} == dict.fromkeys((1000, 2000, 3000), True)
    assert set(heard(kinds=False)) == {1000, 2000, 3000}


@pytest.mark.parametrize(
    ("kinds", "options", "message"),
    [
        ({0: "musik"}, {}, "unknown kind of noise 'musik'; known are music, impact"),
        ({0: "music"}, {"music_share": 0.1}, "one without a kind is needed"),
        ({}, {"music_share": 0.1}, "music_share needs a noise corpus"),
        ({}, {"babble_share": 0.6, "impact_share": 0.5}, "exceed 1 together"),
    ],
)
def test_kinds_that_cannot_be_met_are_an_error(kinds, options, message):
    with pytest.raises(ValueError, match=message):
        Mixer([(corpus(tone(250)), 1.0)], [(corpus(tone(900)), 1.0)], [], MixConfig(**options), 1, noise_kinds=kinds)


def test_clicks_are_short_and_as_many_as_asked():
    for seed in range(20):
        train = click_train(np.random.default_rng(seed), 10 * RATE, RATE, rate_hz=(4.0, 4.0))
        assert train.dtype == np.float32
        quiet = np.abs(train) < 1e-3 * np.abs(train).max()
        assert quiet.mean() > 0.5  # of the time nothing sounds
        onsets = np.flatnonzero(np.diff(quiet.astype(int)) == -1)
        assert 15 <= np.count_nonzero(np.diff(onsets, prepend=-RATE) > 0.02 * RATE) <= 60
    rates = [np.count_nonzero(click_train(np.random.default_rng(s), 10 * RATE, RATE, (15.0, 15.0))) for s in range(9)]
    assert np.mean(rates) > 2 * np.mean(
        [np.count_nonzero(click_train(np.random.default_rng(s), 10 * RATE, RATE, (0.5, 0.5))) for s in range(9)]
    )


def test_impacts_have_an_snr_of_their_own():
    mixer = tones_mixer(impact_share=1.0, synthetic_impact_share=1.0, impact_snr_db=(10.0, 10.0), snr_db=(-10, 0))
    for i in range(20):
        noisy, target = mixer[i]
        loud = active_rms(noisy - target, range_db=20)
        assert 20 * np.log10(active_rms(target) / loud) == pytest.approx(10, abs=0.05)


@pytest.mark.parametrize("share", [None, *NOISES])
def test_noise_alone_has_every_kind_and_its_level(share):
    options = {"silent_share": 1.0, "level_dbfs": (-40, 0)} | ({share: 1.0} if share else {})
    mixer = tones_mixer(**options)
    for i in range(10):
        noisy, target = mixer[i]
        assert not target.any()
        peak, rms = np.abs(noisy).max(), np.sqrt(np.mean(noisy**2))
        assert rms == pytest.approx(0.01, rel=1e-3) or (share == "impact_share" and peak == pytest.approx(0.99))


def test_levels_are_drawn_evenly():
    mixer = tones_mixer(level_uniform=True, level_range_dbfs=(-50.0, -20.0))
    levels = [10 * np.log10(np.mean(mixer[i][0] ** 2)) for i in range(200)]
    assert min(levels) >= -50.01
    assert max(levels) <= -19.99
    counts = np.histogram(levels, 3, (-50, -20))[0]
    assert counts.min() > 45


def test_the_offset_is_on_the_noisy_side_only():
    mixer = tones_mixer(dc_share=1.0, dc_range=(0.01, 0.02), level_dbfs=(-40, 0))
    offsets = np.array([[side.mean() for side in mixer[i]] for i in range(20)])
    assert np.abs(offsets[:, 1]).max() < 1e-4
    assert ((np.abs(offsets[:, 0]) > 0.0099) & (np.abs(offsets[:, 0]) < 0.0201)).all()
    assert {-1, 1} == set(np.sign(offsets[:, 0]))


def test_only_the_noisy_side_is_clipped():
    before, after = tones_mixer(), tones_mixer(clip_share=1.0, clip_db=(6.0, 6.0))
    for i in range(10):
        (noisy, target), (clipped, same) = before[i], after[i]
        limit = np.abs(noisy).max() * 10 ** (-6 / 20)
        assert np.allclose(clipped, noisy.clip(-limit, limit), atol=1e-6)
        assert np.array_equal(target, same)


def lag(a, b):
    """Return by how many samples `a` is later than `b`, from their correlation."""
    correlation = np.fft.irfft(np.fft.rfft(a, 2 * len(a)) * np.conj(np.fft.rfft(b, 2 * len(a))))
    at = int(np.argmax(correlation))
    return at - len(correlation) if at > len(a) else at


def test_codecs_keep_length_and_place(clean):
    """A narrow band's half sample at the lowest Opus rates is all the delay that is left."""
    voice = clean[: RATE + 77]
    distances = set()
    for seed in range(20):
        coded, again = (code(np.random.default_rng(seed), voice, RATE, (32, 96), (8, 32)) for _ in range(2))
        assert coded.dtype == np.float32
        assert len(coded) == len(voice)
        assert np.array_equal(coded, again)
        error = np.sqrt(np.mean((coded - voice) ** 2)) / np.std(voice)
        assert 1e-4 < error < 0.8
        distances.add(round(20 * np.log10(error)))
        if error < 0.5:
            assert lag(coded, voice) == 0
        else:
            assert abs(lag(coded, voice)) <= 1
    assert len(distances) > 4


@pytest.mark.parametrize("kbps", [32, 40, 64, 96])
@pytest.mark.parametrize("codec", ["mp3", "opus"])
def test_every_rate_of_a_codec_is_aligned(clean, monkeypatch, codec, kbps):
    monkeypatch.setattr("modelscope_ext.data.degrade.CODECS", {codec: 1.0})
    voice = clean[:30011]
    coded = code(np.random.default_rng(0), voice, RATE, (kbps, kbps), (kbps / 3, kbps / 3))
    assert len(coded) == len(voice)
    assert lag(coded, voice) == 0
    assert np.corrcoef(coded, voice)[0, 1] > 0.9


def test_codecs_degrade_the_noisy_side_only():
    before, after = (tones_mixer(codec_share=share, level_dbfs=(-30, 0)) for share in (0.0, 1.0))
    for i in range(12):
        assert not np.array_equal(before[i][0], after[i][0])
        assert np.corrcoef(before[i][0], after[i][0])[0, 1] > 0.95
        assert np.array_equal(before[i][1], after[i][1])


def band_share(audio, low, high):
    """Return the share of the energy between two frequencies."""
    power = np.abs(np.fft.rfft(audio * np.hanning(len(audio)))) ** 2
    hz = np.fft.rfftfreq(len(audio), 1 / RATE)
    return power[(hz >= low) & (hz < high)].sum() / power.sum()


def white_mixer(**options):
    config = MixConfig(**{"seconds": 1.0, **PLAIN, **STILL, "snr_db": (0, 0), **options})
    return Mixer([(corpus(white(1)), 1.0)], [(corpus(white(2)), 1.0)], [], config, 1)


def test_low_pass_takes_the_highs_of_both_sides():
    assert band_share(white_mixer()[0][0], 4500, 8000) > 0.35
    for i in range(10):
        for side in white_mixer(low_pass_share=1.0, low_pass_hz=(3400.0, 3400.0))[i]:
            assert band_share(side, 6800, 8000) < 0.02
            assert band_share(side, 0, 3400) > 0.7
    noisy, target = white_mixer(low_pass_share=1.0, **{"clean_share": 1.0})[0]
    assert np.array_equal(noisy, target)


def test_a_telephone_keeps_its_band_on_both_sides():
    narrow, coded = 0, 0
    for seed in range(20):
        noisy, target = telephone(
            np.random.default_rng(seed), white(1).astype(np.float32), white(1).astype(np.float32), RATE
        )
        assert noisy.dtype == target.dtype == np.float32
        assert len(noisy) == len(target) == 4 * RATE
        for side in (noisy, target):
            assert band_share(side, 300, 3400) > 0.85
            assert band_share(side, 0, 100) < 0.01
        narrow += band_share(target, 4400, 8000) < 1e-7
        coded += not np.array_equal(noisy, target)
        assert np.corrcoef(noisy, target)[0, 1] > 0.99
    assert 4 <= narrow <= 16
    assert 4 <= coded <= 16
    noisy, target = white_mixer(telephone_share=1.0)[0]
    assert all(band_share(side, 300, 3400) > 0.85 for side in (noisy, target))


def test_coloured_noise_has_the_asked_slope():
    def slope(exponent):
        noise = coloured(np.random.default_rng(0), 8 * RATE, (exponent, exponent))
        power = [np.log2(band_share(noise, low, 2 * low)) for low in (500, 1000, 2000)]
        return np.mean(np.diff(power))  # one octave is twice as wide as the one below

    assert slope(0.0) == pytest.approx(1, abs=0.1)
    assert slope(1.0) == pytest.approx(0, abs=0.1)
    assert slope(-0.5) == pytest.approx(1.5, abs=0.1)
