"""One architecture into another: insert blocks, transfer weights."""
