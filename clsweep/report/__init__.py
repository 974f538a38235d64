"""The report on any folders of results: a leaderboard, figures and one page; nothing here trains.

python -m clsweep.report outputs/
"""
