"""The distributions of training mixtures."""

from dataclasses import dataclass


@dataclass(frozen=True)
class MixConfig:
    """Distributions of the mixtures. Pairs are (mean, standard deviation) or (lowest, highest); shares are 0 … 1.

    snr_db and level_dbfs are normal distributions as in the paper, cut off at their ranges.
    """

    seconds: float = 4.0
    snr_db: tuple[float, float] = (5.0, 10.0)
    snr_range_db: tuple[float, float] = (-15.0, 40.0)
    level_dbfs: tuple[float, float] = (-28.0, 10.0)
    level_range_dbfs: tuple[float, float] = (-60.0, -3.0)
    level_uniform: bool = False  # levels are drawn evenly from their range instead
    dry_share: float = 0.2  # speech that no room is added to
    target_t60: float = 0.3  # seconds; the target's reverberation decays at least so fast
    pause_share: float = 0.5  # clips that are followed by a pause when short ones are put together
    pause_s: tuple[float, float] = (0.1, 1.0)
    speed_share: float = 0.5  # speech played faster or slower, pitch with it
    speed_range: tuple[float, float] = (0.85, 1.15)
    spectral_share: float = 1.0  # random second-order filters on speech and noise
    speech_high_pass_hz: float = 0.0  # what recordings of speech have below this is rumble; 0 leaves it
    rumble_share: float = 0.0  # low-frequency noise added, of wind, traffic, hands and machines …
    rumble_hz: tuple[float, float] = (25.0, 150.0)  # … below a corner drawn from here, evenly in octaves …
    rumble_snr_db: tuple[float, float] = (-10.0, 20.0)  # … so far below the speech
    noise_speed_share: float = 0.0  # noise played faster or slower, pitch with it …
    noise_speed_range: tuple[float, float] = (0.6, 1.6)  # … drawn evenly in octaves
    noise_room_share: float = 0.0  # recorded noise, music and impacts that are heard in a room
    same_room_share: float = 0.0  # noise in a room that is in the speech's, at another position
    second_noise_share: float = 0.0  # noise that another one is added to …
    second_noise_db: tuple[float, float] = (-15.0, 0.0)  # … so much louder
    babble_share: float = 0.08  # noise made of several speakers
    babble_voices: tuple[int, int] = (3, 8)
    babble_room_share: float = 0.0  # babble that is heard in a room
    coloured_share: float = 0.05  # noise with a spectrum of 1 / f^a …
    coloured_exponent: tuple[float, float] = (0.0, 2.0)  # … a drawn from here
    music_share: float = 0.0  # noise from the music corpora, which give no other noise
    impact_share: float = 0.0  # trains of clicks or impacts: synthetic, or from the impact corpora …
    synthetic_impact_share: float = 0.5  # … this share of them; all where there is no such corpus …
    impact_snr_db: tuple[float, float] = (0.0, 15.0)  # … by the level of the impacts, without the pauses between them
    clean_share: float = 0.03  # no noise at all
    silent_share: float = 0.02  # no speech at all: the target is silence
    gap_share: float = 0.0  # zeros for a while, at the beginning or later, as where a microphone was muted …
    gap_s: tuple[float, float] = (0.02, 1.0)  # … so long
    dc_share: float = 0.0  # a constant added to the noisy signal …
    dc_range: tuple[float, float] = (0.001, 0.03)  # … of either sign, full scale is one
    clip_share: float = 0.0  # noisy signal clipped, the target not …
    clip_db: tuple[float, float] = (2.0, 15.0)  # … so far below its peak
    telephone_share: float = 0.0  # both sides from 300 to 3400 Hz, at times by 8 kHz or mu-law; the next two not then
    low_pass_share: float = 0.0  # both sides without high frequencies …
    low_pass_hz: tuple[float, float] = (3400.0, 7500.0)  # … above this
    codec_share: float = 0.0  # noisy signal coded by mu-law, MP3 or Opus …
    mp3_kbps: tuple[float, float] = (32.0, 96.0)
    opus_kbps: tuple[float, float] = (8.0, 32.0)
