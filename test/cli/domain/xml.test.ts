// The reader of XML: what is well-formed is read, and all else is refused, with its line and within bounds.

import { expect, test } from "vitest";
import { readXml, type XmlElement } from "../../../src/cli/domain/xml.ts";

function show({ name, attributes, children }: XmlElement): unknown {
  return [name, Object.fromEntries(attributes), ...children.map(show)];
}

test("elements are read with their attributes, whatever stands between them", () => {
  const text = `\u{FEFF}<?xml version='1.0'?>
<!-- <no> --><domain type="kvm" xmlns:q='urn:x'>
  <name>a &amp; b</name> <![CDATA[ <no/> ]]>
  <q:cmd a="&lt;&#65;&#x42;&quot;&apos;&amp;" b='say "x"'/><disk
    dev = "line
break" ></disk >
</domain>
<!-- end -->`;
  expect(show(readXml(text))).toEqual([
    "domain",
    { type: "kvm", "xmlns:q": "urn:x" },
    ["name", {}],
    ["q:cmd", { a: "<AB\"'&", b: 'say "x"' }],
    ["disk", { dev: "line break" }],
  ]);
});

test.each([
  ["", "line 1: it has no element"],
  ["plain", "line 1: text stands outside of the root element"],
  ["<a/>\n<b/>", "line 2: it has two root elements"],
  ["<a>\n<b></a></b>", "line 2: </a> closes nothing"],
  ["</a>", "line 1: </a> closes nothing"],
  ["<a>", "line 1: <a> is not closed"],
  ["<a b='1' b='2'/>", "line 1: attribute 'b' stands twice"],
  ["<a b='&x;'/>", "line 1: attribute 'b' has a reference that stands for nothing"],
  ["<a b='&#0;'/>", "line 1: attribute 'b' has a reference that stands for nothing"],
  ["<a b='&#xD800;'/>", "line 1: attribute 'b' has a reference that stands for nothing"],
  ["<a b='x & y'/>", "line 1: attribute 'b' has a reference that stands for nothing"],
  ["<a b=c/>", "line 1: the tag <a> is not well-formed"],
  ["<a b='<'/>", "line 1: the tag <a> is not well-formed"],
  ["<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><a b='&x;'/>", "line 1: a DOCTYPE is refused"],
  ["<a><!-- ", "line 1: what begins there has no end"],
  ["<a>< b/></a>", "line 1: '<' begins no tag"],
  ["<a>".repeat(200), "line 1: its elements lie more than 100 deep"],
  [`<a>${"<b/>".repeat(100_001)}</a>`, "line 1: it has more than 100000 elements"],
])("%s is refused", (text, why) => {
  expect(() => readXml(text)).toThrow(why);
});
