"""Invented answers in the wire formats of the model providers, as OpenAI, Anthropic or Gemini would give them.

    reply.py      a request as it came, and a finished answer: bytes that somebody else sends
    call.py       a request as it is read: text, tokens, prompt cache
    answer.py     what is invented for it
    endpoint.py   a provider and the kinds of call that it answers; below it one file for each wire format

Answering is pure: a call goes in, the finished bytes of a reply come out. The demo's provider server sends them over
HTTP, `tallystick.testing.ProviderSimulator` hands them over as they are.
"""
