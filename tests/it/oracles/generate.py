"""Writes the vectors that come from Python libraries: gsm0338.txt and numbers.json.

    python3 -m venv oracle && oracle/bin/pip install gsm0338==1.1.0 phonenumbers==9.0.43
    oracle/bin/python tests/it/oracles/generate.py

Run by hand when a rule changes; the files are committed, so the tests need neither Python nor a network.
All numbers are made up: they have the form of real ones, from ranges set aside for fiction where there are such.
"""

import json
import pathlib

import gsm0338
import phonenumbers

HERE = pathlib.Path(__file__).parent


def alphabet():
    """Ranges of code points and the septets that each of their characters takes. What is not listed has none."""
    codec = gsm0338.Codec()
    runs = []
    for point in range(0x110000):
        if 0xD800 <= point <= 0xDFFF:
            continue
        try:
            cost = len(codec.encode(chr(point))[0])
        except UnicodeEncodeError:
            continue
        if runs and runs[-1][1] == point - 1 and runs[-1][2] == cost:
            runs[-1][1] = point
        else:
            runs.append([point, point, cost])
    lines = [f"{first:04X}-{last:04X} {cost}\n" for first, last, cost in runs]
    (HERE / "gsm0338.txt").write_text("".join(lines))


# Region, the digits that its national numbers open with, its country code, and numbers as people write them.
NUMBERS = [
    ("IE", "0", "353", [
        "0871234567", "087 123 4567", "087-1234567", "(087) 123 4567", "087.123.4567", "085 020 1234", "083 123 4567",
        "086 1234567", "089 765 4321", "+353 87 123 4567", "+353 (0)87 123 4567", "+353 087 123 4567",
        "00353871234567", "00 353 87 1234567", "353871234567", "353 87 123 4567", "01 234 5678", "(01) 234 5678",
        "021 234 5678", "+353 1 234 5678", "+353-21-234-5678", "091 123456", "0818 123 456", "1850 123 456",
        "+44 7700 900123", "00447700900123", "+44 (0)7700 900123", "+1 212 555 0123", "001 (212) 555-0123",
        "+49 151 23456789", "+33 6 12 34 56 78", "+39 06 1234 5678", "+39 347 123 4567", "+34 612 345 678",
        "+48 512 345 678", "+351 912 345 678", "+371 21 234 567", "+61 491 570 156", "+91 98765 43210",
        "+234 803 123 4567", "+5511912345678", "+86 131 2345 6789", "+81 90-1234-5678", "+298 211234",
        "\u202a+353 87 123 4567\u202c", "\u00a0087\u00a0123\u00a04567", "\uff10\uff18\uff17\uff11\uff12\uff13\uff14\uff15\uff16\uff17",
        "\u0660\u0668\u0667\u0661\u0662\u0663\u0664\u0665\u0666\u0667", "087\u2013123\u20134567",
    ]),
    ("GB", "0", "44", [
        "07700 900123", "07700900123", "(07700) 900 123", "+44 7700 900123", "+44 (0)7700 900123", "+4407700900123",
        "00447700900123", "447700900123", "020 7946 0123", "(020) 7946 0123", "0161 496 0123", "+44 20 7946 0123",
        "0044 (0)20 7946 0123", "+353 87 123 4567", "00353871234567", "+1-212-555-0123",
    ]),
    ("DE", "0", "49", [
        "0151 23456789", "0151/23456789", "0171 1234567", "+49 171 1234567", "+49 (0)171 1234567", "0049 171 1234567",
        "+49 (0) 30 123456", "030/123456", "030 - 123 456", "(030) 123456", "+49/30/123456", "491711234567",
        "+43 664 1234567", "0041 79 123 45 67",
    ]),
    ("US", "1", "1", [
        "+1 212 555 0123", "1 (212) 555-0123", "1-212-555-0123", "1.212.555.0123", "+12125550123", "12125550123",
        "212-555-0123", "(212) 555-0123", "+44 7700 900123", "+353871234567",
    ]),
    ("HU", "06", "36", ["06 30 123 4567", "06301234567", "+36 30 123 4567", "0036 30 123 4567", "+36 06 30 123 4567"]),
    ("FR", "0", "33", ["06 12 34 56 78", "06.12.34.56.78", "+33 6 12 34 56 78", "+33 (0)6 12 34 56 78", "0033612345678"]),
]


def numbers():
    rows = []
    for region, trunk, country, inputs in NUMBERS:
        for text in inputs:
            try:
                parsed = phonenumbers.parse(text, region)
                digits = phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164).lstrip("+")
                valid = phonenumbers.is_possible_number(parsed)
            except phonenumbers.NumberParseException:
                digits, valid = None, False
            rows.append({"input": text, "country": country, "trunk": trunk, "digits": digits if valid else None})
    lines = ",\n".join(json.dumps(row) for row in rows)
    (HERE / "numbers.json").write_text(f"[\n{lines}\n]\n")


alphabet()
numbers()
