"""python -m mq.cli"""

from mq.cli import main

main()
