"""The plugin author's loop: new, build, check, run, test, bench, replay, pack."""
