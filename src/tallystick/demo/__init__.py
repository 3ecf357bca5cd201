"""`tallystick demo`: real SDKs against a local provider server, and a report that proves its numbers.

scenario.py         plays the scenes, reports, and checks itself
customers.py        the plans, and six customers that differ in what happens at their limit
scenes.py           the calls, each scene as an application would write it
clients.py          the official SDKs where they are installed, plain HTTP otherwise
acme.py             a provider of one's own, which states its costs itself
findings.py         what was recorded beside what the server counted, and whether they agree
report.py           the findings on a terminal
next_steps.py       the commands and the first lines that a reader tries next
provider_server/    the providers' wire formats on this machine, without a key or the internet
"""
