#!/usr/bin/env python3
"""Renders the template snippets below with Jinja2, for engine/text/jinja/template_test.cc.

Usage: tools/make_jinja_goldens.py > tests/testdata/chat_templates/constructs.jsonl

Needs Jinja2 3.1. The first line is {"context": {...}}, what all snippets are rendered with;
each other line is {"source", "rendered"}, or {"source", "error"} where Jinja2 raises. The
environment is set up as Hugging Face's transformers does.
"""
import datetime
import json

from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

CONTEXT = {
    "name": "Ada",
    "text": "  Hello, wörld! \n second line\n",
    "n": 5,
    "f": 2.5,
    "zero": 0,
    "yes": True,
    "no": False,
    "nothing": None,
    "empty": "",
    "list": [3, 1, 2],
    "words": ["pear", "Apple", "fig", "apple"],
    "mixed": [1, "a", None, True, 2.5, [1, "x"], {"k": "v"}],
    "dict": {"b": 1, "a": 2, "items": "shadow", "C": [1, 2]},
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi <there> & 'you'"},
        {"role": "assistant", "content": "Hello", "tool_calls": [{"id": "1"}]},
        {"role": "user", "content": [{"type": "text", "text": "part"}, {"type": "image"}]},
    ],
    "unicode": "Ünïcödé Straſe ÀÉ 你好 🙂",
    "quote": "it's",
    "quotes": "it's \"it\"",
    "control": "a\u0000b\u001f\u007f\u00ad\u200b\u2028\ue000\U000e0001",
    "floats": [1.0, 0.1, 1e16, 1e15, 1e-5, 0.0001, 123456789.125, -0.0, 1e300],
}

SOURCES = {}

SOURCES["whitespace"] = r"""
a{% if yes %}b{% endif %}c
  {% if yes %}  
x
  {% endif %}  
y
a {%- if yes -%} b {%- endif -%} c
a {%+ if yes +%}
 b {%+ endif +%}
c
  {{ name }}
z
  {{- name -}}  
z
{# comment #}
x
   {# c #}  
x
x{#- c -#}  y
  {#+ c +#}
y
{% raw %}{{ x }}{% if %}{% endraw %}
  {% raw -%}   x  {%- endraw %}
y
{%- raw %} {{ 1 }} {% endraw -%} z
{% set a = 1 %}
{% set b = 2 %}
{{ a }}{{ b }}

x\r\ny\rz
{{ 'a\r\nb' }}
\n{{ name }}\n\n
\n\n
{% for x in list %}
  {{ x }}
{% endfor %}
end
{{ "{{" }} {{ '}}' }} {{ {'a': {'b': 1}} }}
{
{ {
a { b
{ % x
"""

SOURCES["literals"] = r"""
{{ 1 }} {{ 1.5 }} {{ 1e3 }} {{ 1.5e-7 }} {{ 1_000 }} {{ 0 }} {{ true }} {{ True }} {{ none }} {{ None }} {{ false }}
{{ 'a' "b" 'c' }}
{{ 'a\n\t\\\'\"b\x41\u00e9\U0001f642\101\q' }}
{{ "a\
b" }}
{{ [] }} {{ [1] }} {{ [1, 'a', none,] }} {{ () }} {{ (1,) }} {{ (1, 2) }} {{ 1, 2 }} {{ (1) }}
{{ {} }} {{ {'a': 1, 2: 'b', none: true, 1.5: []} }} {{ {'a': 1, 'a': 2} }} {{ {1: 'a', true: 'b', 1.0: 'c'} }}
{{ mixed }} {{ dict }} {{ floats }} {{ messages[1] }}
{{ quote }} {{ [quote] }} {{ [quotes] }} {{ [control] }} {{ [unicode] }} {{ ['\\'] }}
{{ nothing }} {{ yes }} {{ missing }} {{ [missing] }}
{{ -1 }} {{ - 1.5 }} {{ +1 }} {{ -true }} {{ --1 }}
{{ }}
{{ 'unclosed }}
{{ 1 + }}
{{ [1, 2 }}
{{ (1, 2] }}
{{ a b }}
"""

SOURCES["operators"] = r"""
{{ 1 + 2 }} {{ 1 - 2 }} {{ 2 * 3 }} {{ 7 / 2 }} {{ 6 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }}
{{ 2 ** 10 }} {{ 2 ** -1 }} {{ 2 ** 0.5 }} {{ 2 ** 3 ** 2 }} {{ -2 ** 2 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 7.5 % -2 }} {{ 1.0 * 3 }}
{{ true + true }} {{ yes * 3 }} {{ 1.5 + 1 }}
{{ 'a' + 'b' }} {{ 'ab' * 3 }} {{ 3 * 'ab' }} {{ 'a' * -1 }} {{ [1] + [2] }} {{ [1, 2] * 2 }} {{ (1,) + (2,) }} {{ 2 * (1,) }}
{{ 'a' ~ 1 ~ none ~ 1.0 ~ [1] ~ missing }} {{ 1 ~ 2 + 3 }} {{ 1 + 2 ~ 3 }} {{ 2 * 3 ~ 4 }}
{{ 1 + 2 * 3 - 4 / 2 }} {{ (1 + 2) * 3 }}
{{ 1 < 2 }} {{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 3 > 2 >= 2 != 1 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ (1,) < (1, 2) }} {{ 1 == 1.0 == true }}
{{ 'a' == 'a' }} {{ 'a' != 'b' }} {{ [1, [2]] == [1, [2]] }} {{ {'a': 1, 'b': 2} == {'b': 2, 'a': 1} }} {{ (1,) == [1] }} {{ none == none }} {{ none == false }} {{ missing == missing }} {{ missing == none }} {{ '' == missing }}
{{ 1 in list }} {{ 9 in list }} {{ 9 not in list }} {{ 'ell' in text }} {{ '' in 'a' }} {{ 'b' in dict }} {{ 'z' in dict }} {{ 1 in missing }} {{ 1 in (1, 2) }} {{ not 1 in [1] }} {{ 'role' in messages[0] }} {{ none in [none] }} {{ [1] in [[1]] }} {{ (1, 2) in dict }}
{{ yes and no }} {{ yes or no }} {{ not yes }} {{ '' or 'x' }} {{ 'a' and 'b' }} {{ 0 and 1 }} {{ none or 0 }} {{ not not 1 }} {{ 1 and 2 or 3 }} {{ no or no and yes }} {{ missing or 'd' }}
{{ 'a' if yes else 'b' }} {{ 'a' if no else 'b' }} {{ 'a' if no }} {{ 'a' if no else 'b' if no else 'c' }} {{ ('a' if yes) ~ 'x' }} {{ 'a' if yes if no else 'z' }}
{{ not 1 == 2 }} {{ 1 == 1 and 2 == 2 }} {{ -1|abs }} {{ 2 ** 2|abs }} {{ -list[0] }}
{{ 9223372036854775807 }} {{ -9223372036854775807 - 1 }}
{{ 1 / 0 }}
{{ 1 // 0 }}
{{ 1 % 0 }}
{{ 1.0 / 0 }}
{{ 1 + 'a' }}
{{ 'a' + 1 }}
{{ 'a' + none }}
{{ 'a' + dict }}
{{ [1] + 'a' }}
{{ none + 1 }}
{{ 'a' - 'b' }}
{{ dict + dict }}
{{ 'a' * 'b' }}
{{ 'a' * 1.5 }}
{{ -'a' }}
{{ +'a' }}
{{ 1 < 'a' }}
{{ none > 1 }}
{{ {} < {} }}
{{ 1 in 'a' }}
{{ 1 in 5 }}
{{ 'a' in none }}
{{ [] in dict }}
{{ missing + 1 }}
{{ 1 + missing }}
{{ -missing }}
{{ missing < 1 }}
{{ dict.nope + 1 }}
"""

SOURCES["access"] = r"""
{{ dict.b }} {{ dict['b'] }} {{ dict.C[1] }} {{ dict.C.1 }} {{ list[0] }} {{ list[-1] }} {{ list[5] }} {{ list[true] }} {{ 'abc'[1] }} {{ 'abc'[-1] }} {{ 'abc'[9] }} {{ unicode[1] }} {{ unicode[-1] }} {{ unicode[-4] }} {{ (1, 2)[1] }}
{{ dict['items'] }} {{ dict.missing }} {{ dict['missing'] }} {{ dict[none] }} {{ dict[[]] }} {{ name.missing }} {{ n.missing }} {{ nothing.missing }} {{ list.missing }} {{ list['x'] }}
{{ 'hello'[1:3] }} {{ 'hello'[:2] }} {{ 'hello'[-3:] }} {{ 'hello'[::-1] }} {{ 'hello'[::2] }} {{ 'hello'[4:1:-2] }} {{ 'hello'[10:] }} {{ 'hello'[-100:2] }} {{ 'hello'[2:1] }} {{ unicode[2:6] }} {{ unicode[::-1] }} {{ 'hello'[:-1:] }} {{ 'hello'[none:2] }}
{{ list[1:] }} {{ list[::-1] }} {{ list[:-1] }} {{ list[5:] }} {{ (1, 2, 3)[1:] }} {{ list[1:][0] }} {{ list[-2:-1] }} {{ list[::100] }} {{ list[::-100] }} {{ list[9223372036854775807:] }} {{ list[:-9223372036854775807] }} {{ range(10)[2:5]|list }}
{{ messages[0].role }} {{ messages[0]['content'] }} {{ messages[-1].content[0].text }} {{ messages[1:]|length }}
{{ missing.x }}
{{ missing['x'] }}
{{ missing[0] }}
{{ missing[1:] }}
{{ dict.nope.x }}
{{ dict['nope'].x }}
{{ list[9].x }}
{{ none.x.y }}
{{ name.x.y }}
{{ 'abc'[::0] }}
{{ name['a':] }}
{{ missing() }}
{{ dict.nope() }}
{{ name() }}
{{ dict[missing] }}
"""

SOURCES["undefined"] = r"""
[{{ missing }}] {% if missing %}a{% else %}b{% endif %} {% for x in missing %}a{% else %}none{% endfor %} {{ missing|default('d') }} {{ missing|length }} {{ missing|list }} {{ missing|string }}|{{ missing|upper }}|{{ missing|trim }}|{{ missing|join(',') }}
{{ missing is defined }} {{ missing is undefined }} {{ dict.zz is defined }} {{ dict.b is defined }} {{ missing is none }} {{ missing is string }} {{ missing is iterable }} {{ missing is sequence }} {{ missing is mapping }} {{ missing is number }}
{{ missing|first }}|{{ []|first }}|{{ []|last }}|{{ ''|first }}
{{ missing|tojson }}
{{ missing|int }}
{{ missing|abs }}
{{ [missing]|tojson }}
{{ missing|items|list }}
"""

SOURCES["if"] = r"""
{% if 1 %}a{% endif %}{% if 0 %}b{% endif %}{% if '' %}c{% else %}d{% endif %}{% if none %}e{% elif [] %}f{% elif {} %}g{% elif 0.0 %}h{% elif 'x' %}i{% else %}j{% endif %}
{% if yes %}{% if no %}a{% else %}b{% endif %}{% endif %}
{% if (1, 2) %}t{% endif %}{% if () %}u{% endif %}{% if 1, %}v{% endif %}
{% if yes: %}x{% endif %}
{% if yes %}{% set v = 1 %}{% endif %}{{ v }}
{% if no %}{% set v = 1 %}{% endif %}{{ v is defined }}
{% if yes %}x
{% endif %}
{% if yes %}x{% else %}y{% elif no %}z{% endif %}
{% if yes %}x{% endfor %}
{% if %}x{% endif %}
{% else %}
"""

SOURCES["for"] = r"""
{% for x in list %}{{ x }},{% endfor %}
{% for x in [] %}a{% else %}empty{% endfor %}
{% for k, v in dict.items() %}{{ k }}={{ v }};{% endfor %}
{% for k in dict %}{{ k }};{% endfor %}
{% for c in 'héy' %}[{{ c }}]{% endfor %}
{% for (a, b), c in [((1, 2), 3)] %}{{ a }}{{ b }}{{ c }}{% endfor %}
{% for a, b in ['xy', 'zw'] %}{{ a }}-{{ b }} {% endfor %}
{% for x in list if x > 1 %}{{ loop.index }}:{{ x }} {% else %}none{% endfor %}
{% for x in list if x > 9 %}{{ x }}{% else %}none{% endfor %}
{% for x in list if x in [1, 2] and loop is undefined %}{{ x }}{% endfor %}
{% for x in list %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }} {% endfor %}
{% for x in list %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }} {% endfor %}
{% for x in list %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }} {% endfor %}
{% for x in list %}{{ loop.cycle('a', 'b') }}{% endfor %}
{% for x in list %}{% for y in 'ab' %}{{ loop.index }}{% endfor %}{{ loop.index }} {% endfor %}
{% for x in range(10) %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 5 %}{% break %}{% endif %}{{ x }}{% endfor %}
{% for x in list %}{% for y in list %}{% if y == 1 %}{% break %}{% endif %}{{ y }}{% endfor %};{% endfor %}
{% set x = 'outer' %}{% for x in list %}{{ x }}{% endfor %}{{ x }}
{% set c = 0 %}{% for x in list %}{% set c = c + x %}{{ c }} {% endfor %}{{ c }}
{% set c = 1 %}{% for x in list %}{{ c }}{% set c = 2 %}{% endfor %}
{% set ns = namespace(c=0) %}{% for x in list %}{% set ns.c = ns.c + x %}{% endfor %}{{ ns.c }}
{% for x in range(3) %}{{ x }}{% endfor %} {% for x in range(1, 4) %}{{ x }}{% endfor %} {% for x in range(5, 0, -2) %}{{ x }}{% endfor %} {% for x in range(0) %}x{% endfor %}
{{ range(3)|list }} {{ range(3)|length }} {{ range(5)[2] }} {{ 2 in range(3) }} {{ range(3)|sum }}
{% for m in messages %}{% if loop.first %}first {% endif %}{{ m.role }}{% if not loop.last %}, {% endif %}{% endfor %}
{% for x in 1, 2, 3 %}{{ x }}{% endfor %}
{% for x in (list if yes else []) %}{{ x }}{% endfor %}
{% for x in list|sort %}{{ x }}{% endfor %}
{% for k, v in dict|items %}{{ k }}{% endfor %}
{% for x in list %}{% if loop.index0 % 2 == 0 %}{{ x }}{% endif %}{% endfor %}
{% for x in list %}{% set y = x %}{% else %}{% set y = 9 %}{% endfor %}{{ y is defined }}
{% for a, b in [(1, 2), (3, 4)] %}{{ loop.previtem }}{% endfor %}
{% for x in 5 %}{% endfor %}
{% for x in none %}{% endfor %}
{% for a, b in [1, 2] %}{% endfor %}
{% for a, b in [[1]] %}{% endfor %}
{% for a, b in [[1, 2, 3]] %}{% endfor %}
{% for x in list %}{{ loop.missing.x }}{% endfor %}
{% for x in range(200000) %}{% endfor %}
{% for x in range(0, 5, 0) %}{% endfor %}
{% for x in list %}
{% for x %}{% endfor %}
{% for 1 in list %}{% endfor %}
{% for true in list %}{% endfor %}
{% break %}
{% for x in list %}{% macro m() %}{% continue %}{% endmacro %}{% endfor %}
"""

SOURCES["set"] = r"""
{% set x = 1 %}{{ x }}{% set x = x + 1 %}{{ x }}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set a, b = b, a %}{{ a }}{{ b }}
{% set (a, b) = [3, 4] %}{{ a }}{{ b }}
{% set t = 1, 2 %}{{ t }}
{% set x %}a{{ 1 }}b{% endset %}[{{ x }}]
{% set x | upper | trim %} abc {% endset %}[{{ x }}]
{% set x | replace('a', 'b') %}aaa{% endset %}{{ x }}
{% set y = 1 %}{% set x %}{% set y = 2 %}{{ y }}{% endset %}{{ x }}{{ y }}
{% set ns = namespace() %}{% set ns.a = 1 %}{{ ns.a }}{{ ns.b }}|{{ ns.b is defined }}
{% set ns = namespace(a=1, b='x') %}{{ ns.a }}{{ ns.b }}{% set ns.a = ns.a + 1 %}{{ ns.a }}{{ ns['b'] }}
{% set ns = namespace({'q': 1}, r=2) %}{{ ns.q }}{{ ns.r }}
{% set ns = namespace() %}{% set ns.x %}block{% endset %}{{ ns.x }}
{% set ns = namespace(a=1) %}{{ ns }}
{% set x = y = 1 %}
{% set x.y = 1 %}
{% set dict.y = 1 %}
{% set none = 1 %}
{% set a, b = 1 %}
{% set %}
{% set x = %}
{% set 5 = 1 %}
{% set x %}abc
"""

SOURCES["macros"] = r"""
{% macro m(a, b='d', c=none) %}[{{ a }}|{{ b }}|{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, 2) }}{{ m(1, c=3) }}{{ m(b=5, a=4) }}{{ m() }}
{% macro m(a, b=a ~ 'x') %}{{ b }}{% endmacro %}{{ m('q') }}
{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}
{% set x = 1 %}{% macro m() %}{{ x }}{% endmacro %}{% set x = 2 %}{{ m() }}
{% macro m() %}{{ x }}{% endmacro %}{% set x = 2 %}{{ m() }}
{% macro m() %}{% set z = 1 %}{{ z }}{% endmacro %}{{ m() }}{{ z is defined }}
{% macro m(x) %}  {{ x }}  {% endmacro %}[{{ m('a')|trim }}][{{ m('a') ~ 'b' }}]
{% macro m() %}{{ caller() }}!{% endmacro %}{% call m() %}body{{ n }}{% endcall %}
{% macro m() %}{{ caller('x', 2) }}!{% endmacro %}{% call(a, b) m() %}{{ a }}{{ b }}{% endcall %}
{% macro m() %}a{% endmacro %}{{ m is callable }}{{ m() is string }}{{ 5 is callable }}{{ m() == 'a' }}
{% macro outer() %}{% macro inner() %}i{% endmacro %}{{ inner() }}{% endmacro %}{{ outer() }}
{% for x in list %}{% macro m() %}{{ x }}{% endmacro %}{{ m() }}{% endfor %}
{% macro m(a) %}{% for i in range(a) %}{{ i }}{% endfor %}{% endmacro %}{{ m(3) }}{{ m(a=2)|length }}
{% macro m(a, ) %}{{ a }}{% endmacro %}{{ m(1, ) }}
{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{% endmacro %}{{ m(z=1) }}
{% macro m(a) %}{{ a.x }}{% endmacro %}{{ m() }}
{% macro m(a=1, b) %}{% endmacro %}
{% macro m %}{% endmacro %}
{% macro m() %}
{% call m() %}{% endcall %}
{% call 5 %}{% endcall %}
"""

SOURCES["blocks"] = r"""
{% filter upper %}abc{{ name }}{% endfilter %}
{% filter trim | replace('b', 'X') %}  abc  {% endfilter %}|
{% filter indent(2) %}a
b{% endfilter %}
{% with a=1, b=2 %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}
{% set a = 5 %}{% with a=1, b=a %}{{ a }}{{ b }}{% endwith %}{{ a }}
{% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q is defined }}
{% for x in list %}{% with y=x %}{% if y == 1 %}{% continue %}{% endif %}{{ y }}{% endwith %}{% endfor %}
{% print 1, 'a' %}
{% filter nope %}{% endfilter %}
"""

SOURCES["tests"] = r"""
{{ 1 is number }} {{ 1.5 is number }} {{ true is number }} {{ '1' is number }} {{ 1 is integer }} {{ true is integer }} {{ 1.0 is integer }} {{ 1.5 is float }} {{ 1 is float }}
{{ 'a' is string }} {{ 1 is string }} {{ {} is mapping }} {{ [] is mapping }} {{ [] is iterable }} {{ 'a' is iterable }} {{ 1 is iterable }} {{ {} is iterable }} {{ none is iterable }} {{ [] is sequence }} {{ 'a' is sequence }} {{ {} is sequence }} {{ 1 is sequence }} {{ () is sequence }} {{ dict.items() is sequence }} {{ range(2) is sequence }} {{ dict|items is sequence }} {{ dict|items is iterable }}
{{ true is boolean }} {{ 1 is boolean }} {{ true is true }} {{ 1 is true }} {{ false is false }} {{ 0 is false }} {{ none is none }} {{ 0 is none }} {{ none is not none }} {{ 1 is not none }}
{{ 3 is odd }} {{ 3 is even }} {{ 4 is even }} {{ -3 is odd }} {{ 6 is divisibleby 3 }} {{ 6 is divisibleby(4) }}
{{ 1 is eq 1 }} {{ 1 is equalto 2 }} {{ 1 is ne 2 }} {{ 1 is lt 2 }} {{ 1 is le 1 }} {{ 1 is gt 0 }} {{ 1 is ge 2 }} {{ 2 is greaterthan 1 }} {{ 1 is lessthan 2 }} {{ 'a' is in 'abc' }} {{ 1 is in [1] }} {{ 1 is not in [1] }} {{ 1 is sameas 1 }} {{ true is sameas true }} {{ [] is sameas [] }} {{ 1 is sameas true }}
{{ 'abc' is lower }} {{ 'Abc' is lower }} {{ 'ABC' is upper }} {{ '123' is lower }} {{ 'É' is upper }} {{ '' is upper }}
{{ name is defined and name is string }} {{ missing is not defined or no }} {{ name is string == true }} {{ not name is string }} {{ 'x' if n is odd else 'y' }}
{{ 'a'|safe is escaped }} {{ 'a' is escaped }} {{ range is callable }} {{ missing is callable }} {{ name.strip is callable }}
{{ 1 is nope }}
{{ 1 is divisibleby 0 }}
{{ 'a' is odd }}
{{ 1 is string is string }}
{{ 1 is eq }}
{{ 1 is defined(2) }}
"""

SOURCES["filters"] = r"""
[{{ text|trim }}] [{{ 'xxaxx'|trim('x') }}] {{ 5|trim }} {{ 'abc'|upper }} {{ 'ABC'|lower }} {{ 'hELLO wORLD'|capitalize }} {{ "hello wo-rld (foo) [bar] it's"|title }} {{ unicode|upper }} {{ unicode|lower }} {{ unicode|title }} {{ unicode|capitalize }}
{{ [1,2,3]|length }} {{ 'abc'|length }} {{ unicode|length }} {{ dict|length }} {{ list|count }} {{ ()|length }}
{{ list|join }} {{ list|join(', ') }} {{ messages|join('|', attribute='role') }} {{ 'abc'|join('-') }} {{ dict|join(',') }} {{ mixed|join(' ') }} {{ list|join(1) }}
{{ none|default('x') }} {{ none|default('x', true) }} {{ ''|default('x') }} {{ ''|default('x', boolean=true) }} {{ missing|default }}| {{ missing|d(5) }} {{ dict.zz|default('nope') }} {{ 0|default(1, true) }}
{{ 'a.b.c'|replace('.', '-') }} {{ 'aaa'|replace('a', 'b', 2) }} {{ 'abc'|replace('', '-') }} {{ 5|replace(5, 6) }} {{ 'aaa'|replace('aa', 'b') }}
{{ list|first }} {{ list|last }} {{ 'abc'|first }} {{ 'abc'|last }} {{ dict|first }} {{ list|list }} {{ 'abc'|list }} {{ dict|list }} {{ dict.items()|list }} {{ dict.keys()|list }} {{ dict.values()|list }} {{ dict.items() }} {{ dict.keys() }} {{ dict.values() }} {{ dict.items()|length }}
{{ words|map('upper')|list }} {{ messages|map(attribute='role')|list }} {{ messages|map(attribute='tool_calls')|list|length }} {{ messages|map(attribute='x', default='-')|join }} {{ [[1, 2], [3, 4]]|map('first')|list }} {{ [' a ']|map('trim')|list }} {{ messages|map(attribute='content.0.text', default='')|list }} {{ [[5], [6]]|map(attribute=0)|list }} {{ ['a']|map('replace', 'a', 'b')|list }} {{ [1.5]|map('int')|list }} {{ none|map('upper')|list }}
{{ [0, 1, '', 'a', none]|select|list }} {{ [0, 1, '']|reject|list }} {{ list|select('gt', 1)|list }} {{ list|reject('odd')|list }} {{ [1, 'a']|select('string')|list }} {{ list|select('in', [1, 2])|list }} {{ list|select('==', 1)|list }}
{{ messages|selectattr('role', 'equalto', 'user')|list|length }} {{ messages|selectattr('tool_calls')|map(attribute='role')|list }} {{ messages|rejectattr('role', 'equalto', 'user')|map(attribute='role')|list }} {{ messages|selectattr('tool_calls', 'defined')|list|length }} {{ messages|rejectattr('tool_calls')|list|length }} {{ (messages|selectattr('role', '==', 'user')|first).content }} {{ messages|selectattr('content', 'string')|list|length }} {{ none|selectattr('x')|list }}
{{ '5'|int }} {{ '5.7'|int }} {{ 5.7|int }} {{ -5.7|int }} {{ 'x'|int }} {{ 'x'|int(3) }} {{ ' 7 '|int }} {{ true|int }} {{ none|int }} {{ '+5'|int }} {{ '1e3'|int }} {{ ''|int }} {{ '5'|float }} {{ 'x'|float }} {{ 'x'|float(1.5) }} {{ 3|float }} {{ '-2.5e1'|float }} {{ 'inf'|float }} {{ 'nan'|float }} {{ 'inf'|int }}
{{ 5|string }} {{ none|string }} {{ [1]|string }} {{ 1.0|string }} {{ 'a'|string }}
{{ dict|items|list }} {{ {}|items|list }} {{ dict|dictsort }} {{ dict|dictsort(true) }} {{ {'a': 2, 'b': 1}|dictsort(by='value') }} {{ {'a': 2, 'b': 1}|dictsort(reverse=true) }} {{ {'B': 1, 'a': 2, 'b': 3}|dictsort(false, 'key') }}
{{ words|sort }} {{ words|sort(case_sensitive=true) }} {{ list|sort(reverse=true) }} {{ messages|sort(attribute='role')|map(attribute='role')|list }} {{ 'hello'|sort }} {{ [[2, 1], [1, 2]]|sort }} {{ dict|sort }} {{ words|sort(reverse=true) }} {{ [1.5, 1, true]|sort }}
{{ words|unique|list }} {{ words|unique(case_sensitive=true)|list }} {{ [1, 1.0, true, 2]|unique|list }} {{ messages|unique(attribute='role')|map(attribute='role')|list }}
{{ list|max }} {{ list|min }} {{ words|min }} {{ words|max(case_sensitive=true) }} {{ []|max }}| {{ messages|max(attribute='role') }} {{ list|sum }} {{ []|sum }} {{ [1.5, 2]|sum }} {{ list|sum(start=10) }} {{ [{'a': 1}, {'a': 2}]|sum(attribute='a') }}
{{ list|reverse|list }} {{ 'abc'|reverse }} {{ -5|abs }} {{ -5.5|abs }} {{ 2.5|round }} {{ 3.5|round }} {{ 2.567|round(2) }} {{ 2.1|round(method='ceil') }} {{ 2.9|round(0, 'floor') }} {{ 5|round }} {{ 2.675|round(2) }} {{ -0.4|round }}
{{ 'a\nb\n\nc'|indent }} {{ 'a\nb'|indent(2, true) }} {{ 'a\n\nb'|indent(2, blank=true) }} {{ 'a\nb'|indent('> ') }} {{ 'a\n'|indent }}| {{ ''|indent }}| {{ 'a\r\nb\x0bc\u2028d'|indent(1) }}
{{ '<a href="x">&\'</a>'|e }} {{ '<b>'|escape }} {{ '<b>'|safe }} {{ '<b>'|safe ~ '<c>' }} {{ '<b>'|safe + '<c>' }} {{ '<c>' + '<b>'|safe }} {{ ('<b>'|safe + '<c>')|length }} {{ ['<b>'|safe] }} {{ '<b>'|safe|upper + '<' }} {{ ('<b>'|safe * 2) + '<' }} {{ 5|safe }} {{ ('<'|safe)[0] + '<' }} {{ ('<'|safe)|string + '<' }} {{ '<'|e|e }}
{{ 'A'|lower|upper|lower }} {{ (1, 2)|join('-') }} {{ 'a,b'.split(',')|join(';') }} {{ -1|string|length }}
{% set g = list|select('gt', 1) %}{{ g|list }}{{ g|list }} {% set g = list|map('string') %}{{ g|first }}{{ g|list }}{% if []|select %}true{% endif %}
{{ 1|nope }}
{{ 5|length }}
{{ none|length }}
{{ list|select('gt', 1)|length }}
{{ list|select('nope')|list }}
{{ list|map('nope')|list }}
{{ list|map|list }}
{{ list|first(1) }}
{{ 'a'|replace('a') }}
{{ 5|first }}
{{ 5|join }}
{{ 5|list }}
{{ 'a'|items|list }}
{{ [1, 'a']|sort }}
{{ 5|indent }}
{{ missing|indent }}
{{ [{}, {}]|sort }}
{{ [{}]|unique|list }}
{{ 'a'|abs }}
{{ list|join(z=1) }}
{{ 'a'|upper(1) }}
{{ 'a'|trim(5) }}
{{ 'a'|sum }}
{{ list|dictsort }}
{{ dict|dictsort(by='x') }}
"""

SOURCES["tojson"] = r"""
{{ mixed|tojson }} {{ dict|tojson }} {{ messages|tojson }} {{ 'a"b\\c\n\t\r\b\f</é'|tojson }} {{ control|tojson }} {{ unicode|tojson }} {{ floats|tojson }} {{ (1, 2)|tojson }} {{ []|tojson }} {{ {}|tojson }} {{ none|tojson }} {{ true|tojson }} {{ 5|tojson }} {{ 1.0|tojson }} {{ ''|tojson }}
{{ messages|tojson(indent=2) }}
{{ {'a': [], 'b': {}, 'c': [1, [2]], 'd': {'e': 1}}|tojson(indent=4) }}
{{ dict|tojson(indent=0) }}
{{ dict|tojson(indent='--') }}
{{ dict|tojson(separators=(',', ':')) }} {{ dict|tojson(sort_keys=true) }} {{ unicode|tojson(ensure_ascii=true) }} {{ '\x7f🙂'|tojson(ensure_ascii=true) }}
{{ dict|tojson(indent=2, separators=(';', '=')) }}
{{ {1: 2, none: 3, true: 4, 1.5: 5}|tojson }} {{ '<b>'|safe|tojson }} {{ 'inf'|float|tojson }} {{ '-inf'|float|tojson }} {{ 'nan'|float|tojson }}
{{ dict.items()|list|tojson }} {{ range(3)|list|tojson }} {{ "it's <a> & b"|tojson }}
{{ list|select|tojson }}
{{ dict.items()|tojson }}
{{ range(2)|tojson }}
{{ range|tojson }}
{{ namespace()|tojson }}
"""

SOURCES["methods"] = r"""
[{{ text.strip() }}] [{{ text.lstrip() }}] [{{ text.rstrip() }}] {{ 'xxaxx'.strip('x') }} {{ 'abcba'.lstrip('ab') }} {{ 'abcba'.rstrip('ab') }} {{ '\u3000a\xa0'.strip() }} {{ 'éaé'.strip('é') }} [{{ ' a '.strip(none) }}]
{{ 'a b  c'.split() }} {{ ' a b '.split() }} {{ 'a,b,,c'.split(',') }} {{ 'a,b,c'.split(',', 1) }} {{ 'a b c'.split(none, 1) }} {{ 'a b  c '.split(maxsplit=1) }} {{ ''.split() }} {{ ''.split(',') }} {{ 'a--b'.split('--') }} {{ 'a,b,c'.rsplit(',', 1) }} {{ 'abc'.split('x') }} {{ 'a</think>b'.split('</think>')[-1] }} {{ 'aaa'.split('aa') }} {{ 'aaa'.rsplit('aa') }} {{ 'a,b'.split(',', 0) }} {{ 'a b'.rsplit() }}
{{ 'a\nb\r\nc\rd\n'.splitlines() }} {{ 'a\nb\n'.splitlines(true) }} {{ ''.splitlines() }} {{ 'a\n\nb'.splitlines() }}
{{ 'hello'.startswith('he') }} {{ 'hello'.startswith(('x', 'h')) }} {{ 'hello'.endswith('lo') }} {{ 'hello'.endswith('x') }} {{ ''.startswith('') }} {{ 'a'.endswith(('b',)) }}
{{ 'aXbX'.replace('X', 'Y') }} {{ 'aXbX'.replace('X', 'Y', 1) }} {{ 'abc'.replace('', '.') }} {{ 'aé'.replace('', '.') }} {{ 'abc'.replace('b', '') }} {{ ''.replace('', 'x') }} {{ 'aaa'.replace('a', 'b', 0) }}
{{ 'abc'.upper() }} {{ 'ABC'.lower() }} {{ "hello world it's a-b 3d".title() }} {{ 'hELLO'.capitalize() }} {{ ''.capitalize() }} {{ unicode.upper() }} {{ unicode.lower() }} {{ unicode.title() }}
{{ ','.join(['a', 'b']) }} {{ ''.join([]) }} {{ '-'.join('abc') }} {{ 'abcabc'.find('c') }} {{ 'abcabc'.rfind('c') }} {{ 'abc'.find('z') }} {{ 'éab'.find('b') }} {{ 'aXaX'.count('X') }} {{ 'abc'.count('') }} {{ 'prefix'.removeprefix('pre') }} {{ 'suffix'.removesuffix('fix') }} {{ 'abc'.removeprefix('x') }}
{{ dict.get('b') }} {{ dict.get('zz') }} {{ dict.get('zz', 'd') }} {{ dict.get('zz', []) }} {{ dict.keys()|list }} {{ dict.values()|list }} {{ dict.items()|list }} {% for k, v in dict.items() %}{{ k }}{% endfor %} {{ {}.get(1) }}
{{ [1, 2, 1].count(1) }} {{ [1, 2].index(2) }} {{ (1, 1).count(1) }} {{ name.upper().lower().strip() }} {{ name.strip is defined }}
{{ dict(a=1, b=2) }} {{ dict({'z': 1}, a=1) }}
{{ namespace(a=1).a }} {{ 'abc'.upper()[0] }} {{ ('a' ~ 'b').upper() }} {{ -1.5|string }}
{{ 'a'.split('') }}
{{ ','.join([1]) }}
{{ 'a'.startswith(1) }}
{{ 'a'.replace('a') }}
{{ 'a'.replace(1, 2) }}
{{ list.append(1) }}
{{ dict.update({}) }}
{{ dict.pop('a') }}
{{ 'a'.nope() }}
{{ [1].index(9) }}
{{ 'a'.strip(1) }}
{{ dict.get() }}
"""

SOURCES["functions"] = r"""
{{ strftime_now('%Y-%m-%d') }} {{ strftime_now('%d %b %Y') }} {{ strftime_now('%H:%M:%S') }} {{ strftime_now('%A %B %j %%') }} {{ strftime_now('%d %B, %Y') }} [{{ strftime_now('') }}] {{ strftime_now('%f%z%Z') }} {{ strftime_now('%-d é') }}
{{ raise_exception('boom: ' ~ n) }}
{% if no %}{{ raise_exception('x') }}{% endif %}ok
{{ range() }}
{{ range('a') }}
{{ nope() }}
{{ strftime_now(5) }}
"""

# A snippet of several lines, where the lines matter.
MULTILINE = [
    "{% for m in messages %}\n    {% if m.role == 'user' %}\n  U: {{ m.role }}\n    {% else %}\n"
    "  O: {{ m.role }}\n    {% endif %}\n{% endfor %}\ndone\n",
    "{%- for m in messages -%}\n    {{- m.role -}}\n{%- endfor %}\n\n",
    "  {%- if yes %}\n  a\n  {%- endif %}\n  b\n",
    "a\n\n  {% set x = 1 %}  \n\nb",
    "{{ name }}\n{{ name }}\n\n",
    "{% macro m(x) %}\n  {{ x }}\n{% endmacro %}\n{{ m(1) }}\n{{ m(2) }}",
    "x\n{#- a\nb -#}\ny\n{# c\nd #}\nz",
    "{% raw %}\n  {{ a }}\n{% endraw %}\nb",
    "line\n\t{% if yes %}\n\t\ttabbed\n\t{% endif %}\nend",
    "{% if yes %}\n\n\nx{% endif %}\n\n",
    "a  {% if yes %}  b  {% endif %}  c",
    "{{ 'a' }}  \n  {{ 'b' }}",
    "\n\n{% if yes %}x{% endif %}\n\n\n",
    "{% set x %}\n  a\n  b\n{% endset %}\n[{{ x }}]",
    "{{\n  name\n  ~ 'x'\n}}",
    "{%\n  if yes\n%}\ny\n{%\n  endif\n%}",
    "{% filter trim %}\n\n  a  \n\n{% endfilter %}|",
    "{{ {\n  'a': 1,\n  'b': [\n    2\n  ]\n}|tojson }}",
    "{% call(x) m() %}{% endcall %}",
    "{# unclosed",
    "{{ unclosed",
    "{% if yes %}unclosed",
    "{% raw %}unclosed",
    "{% if yes ",
    "{{ 'a' ",
    "{% %}",
    "{{ name }",
    "{{ name %}",
    "{% nope %}",
]


def environment():
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    def raise_exception(message):
        raise TemplateError(message)

    now = datetime.datetime(2024, 7, 26, 12, 0)
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = now.strftime
    return env


def snippets():
    for text in SOURCES.values():
        yield from (line for line in text.split("\n") if line)
    yield from MULTILINE


def split_cases(source):
    """A line of several outputs is rendered whole and, for clearer failures, piece by piece."""
    yield source
    pieces = source.split(" {{ ")
    if len(pieces) > 2 and "{%" not in source and "{#" not in source:
        yield from (piece if i == 0 else "{{ " + piece for i, piece in enumerate(pieces))


def main():
    env = environment()
    print(json.dumps({"context": CONTEXT}))
    for snippet in snippets():
        for source in split_cases(snippet.replace("\\r\\ny\\rz", "\r\ny\rz")):
            case = {"source": source}
            try:
                case["rendered"] = env.from_string(source).render(**CONTEXT)
            except Exception as error:  # Whatever it is, the template is refused.
                case["error"] = str(error)
            print(json.dumps(case, ensure_ascii=False))


if __name__ == "__main__":
    main()
