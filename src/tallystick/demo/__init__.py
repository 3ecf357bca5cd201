"""`tallystick demo`: real SDKs against a local provider server, and a report that proves its numbers.

scenario.py         plays the scenes, reports, and checks itself
customers.py        the plans, and seven customers that differ in what happens at their limit
scenes.py           the calls, each scene as an application would write it
wallet_scenes.py    a customer who pays in advance: a wallet, a feature, and a midnight
clients.py          the official SDKs where they are installed, plain HTTP otherwise
acme.py             a provider of one's own, which states its costs itself
findings.py         what was recorded beside what the server counted, and whether they agree
wallet_findings.py  the statement, what burned which credits, and whether the ledger agrees
check.py            one thing that has to be so
report.py           the findings on a terminal
wallet_report.py    those of the wallet and the feature
layout.py           the report's tables
next_steps.py       the commands and the first lines that a reader tries next
provider_server/    the providers' wire formats on this machine, without a key or the internet
"""
