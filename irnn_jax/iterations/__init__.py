"""Iterations towards a fixed point that is near: plain, by a chord, refined, accelerated."""
