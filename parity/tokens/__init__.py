"""Two tokenizers held against each other: strings to try, both sides, and causes of differences."""
