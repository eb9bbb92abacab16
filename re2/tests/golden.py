#!/usr/bin/env python3
"""Writes golden.json: what RE2 itself says of many expressions and values.

    pip install google-re2 && ./golden.py > golden.json

Each row is [expression, null] if RE2 refuses the expression, else
[expression, values it matches whole, values it does not].
"""
import json
import random

import re2

WRITTEN = r"""
GET|HEAD
/public/.*
/v\d+/users
/[\w.-]+
(?i)/api/.*
.*\bx\b.*
/x[a[b]c]
/v[0-9&&5]
[a~~b]
[%--]
[a--b]
[]a]
[^]a]
[a-]
[-a]
[a\-z]
[\]]
[^\d]
[\D]
[[:alpha:]]+
[[:^alpha:]]
[[:word:]]
[[:nope:]]
[[:alpha:]
[:alpha:]
[a-\d]
[é]
[^é]
/[à-ÿ]+
(?i)[a-z]+
(?i)k
(?i)[^k]
(?i)\W
(?i)[[:^upper:]]
(?i:a)b
(?i)a(?-i)b
a(?i)b|c
(?s).
(?m)^a$
(?m)a$\nb
(?U)a+
(?U)a+?
(?P<n>a)b
(?<n>a)b
(?P<n>a)(?P<n>b)
(?P=n)
(?=a)
(?<!a)
(?#x)
(?)
(?i-)
(?-)
(?i-s)a
a**
a*?
a+?
a??
a*+
a{2}
a{2,}
a{2,3}
a{,3}
a{x}
a{
a{2
a{02}
a{2,1}
a{1001}
a{1000}
(a{10}){100}
(a{11}){100}
/([a-z0-9]{1,200}/){1,100}
a{2}{3}
a{2}*
^*a
|a
a|
|*
(*)
()
()*
(|a)+
\Qa.b\E
\Qa.b
\Qab\E+
\E
\A/a\z
/a\Z
\x41
\x{e9}
\x{110000}
\x4
\x{}
\012
\08
\1
\11
\_
\%
\é
\y
\a\f\v\t\r\n
\pN
\p{Greek}
[\pL]
\C
.\C
\s
\S
[\s]
[[:space:]]
[[:punct:]]+
[a-z&&[^b]]
[a&&b]
[^a--b]
[\x00-\x{10FFFF}]
[^\x00-\x{10FFFF}]
a)
(a
[a
[z-a]
\
x{0}
(?:x{0,0})y
$a
a^
a$b
(?m)a$
^/a|/b$
""".strip("\n").split("\n")

VALUES = [
    "", "a", "A", "b", "ab", "aab", "aa", "aaa", "x", "xy", "y", "k", "K", "\u212a", "s", "\u017f",
    "é", "e", "ÿ", "\n", "a\n", "a\nb", "\t", "\x0b", " ", "-", "]", "[", "&", "~", "5", "%", "$", "_", ".", ",",
    "GET", "HEAD", "get", "/public/", "/public/x", "/v1/users", "/v12/users", "/v/users", "/a.b-c",
    "/API/x", "/api/", "a x b", "axb", "/xac]", "/xb", "/v5", "/v0", "/v&", "/a", "/b", "a.b", "abb",
    "{", "a{", "a{x}", "a{,3}", "a{2", "a{02}", ":", "l", "c]", "ac]", "\x07\x0c\x0b\t\r\n", "aaaa", "aé", "中", "\u0663",
]
PARTS = [
    "a", "b", "-", "]", "[", "^", "$", ".", "*", "+", "?", "{1,2}", "{2}", "{", "|", "(", ")", "(?i)", "(?:", "(?s)",
    "&&", "--", "~~", "[^", "[:alpha:]", "\\d", "\\w", "\\b", "\\s", "\\-", "é", "k", "\\Q", "\\E", ":", ",", "%",
]


def row(expression):
    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(expression, options)
    except re2.error:
        return [expression, None]
    values = VALUES + ["".join(chance.choice("ab-&~[]^k é\n1") for _ in range(chance.randint(1, 3))) for _ in range(8)]
    yes = [value for value in values if compiled.fullmatch(value)]
    no = [value for value in values if value not in yes]
    # All that match, and enough of those that do not.
    return [expression, sorted(set(yes)), sorted(set(chance.sample(no, min(24, len(no)))))]


chance = random.Random(20)
rows = [row(expression) for expression in WRITTEN]
for _ in range(1_500):
    rows.append(row("".join(chance.choice(PARTS) for _ in range(chance.randint(1, 7)))))
for _ in range(500):
    inside = "".join(chance.choice(PARTS) for _ in range(chance.randint(1, 5)))
    rows.append(row("[" + inside + "]"))
print("[\n" + ",\n".join(json.dumps(r, ensure_ascii=True, separators=(",", ":")) for r in rows) + "\n]")
