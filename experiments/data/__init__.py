"""Data sets of studies: functions that return (train x, train y, test x, test y)."""
