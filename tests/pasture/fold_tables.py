"""Tables of photos like the competition's, for the tests of folds."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pasture.photos import TARGETS


def draw_table(seed: int) -> pd.DataFrame:
    """Draw a table like the competition's, with its numbers of photos and dates."""
    draw = np.random.default_rng(seed)
    days = draw.choice(330, 28, replace=False)
    dates = {"Tas": days[:10], "Vic": np.r_[days[:2], days[10:19]]}
    dates |= {"NSW": days[19:25], "WA": days[25:]}
    rows = []
    for state, count in {"Tas": 138, "Vic": 112, "NSW": 75, "WA": 32}.items():
        of_days = np.r_[dates[state], draw.choice(dates[state], count)][:count]
        level = draw.lognormal(0, 0.5, (330, 3))[of_days]
        grams = level * draw.gamma(2, [13.3, 6.0, 5.4], (count, 3))
        grams[draw.random(count) < 0.38, 2] = 0
        rows.append(pd.DataFrame(grams, columns=TARGETS[:3]).assign(State=state))
        rows[-1]["Sampling_Date"] = pd.Timestamp(2015, 1, 1) + pd.to_timedelta(
            of_days, unit="D"
        )
    photos = pd.concat(rows, ignore_index=True)
    photos["GDM_g"] = photos["Dry_Green_g"] + photos["Dry_Clover_g"]
    photos["Dry_Total_g"] = photos["GDM_g"] + photos["Dry_Dead_g"]
    photos.index = [f"ID{number}" for number in draw.permutation(10**6)[:357]]
    return photos.sample(frac=1, random_state=seed)
