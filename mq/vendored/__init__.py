"""Code of others, each file with its licence beside it.

    cronsim.py    cron expressions: cronsim 2.6, https://github.com/cuu508/cronsim, without `explain`
"""
