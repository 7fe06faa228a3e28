"""Twenty functions with a seeded bug each, on which the search was developed: not what it is judged on."""

import textwrap
from typing import Any

from paperworks.papers.trace.bugs import Bug


def _bug(source: str, *tests: tuple[tuple[Any, ...], Any]) -> Bug:
    return Bug(textwrap.dedent(source).strip(), list(tests))


RAISING = [
    _bug(
        """
        def moving_average(values, width):
            averages = []
            total = 0
            for i in range(width):
                total = total + values[i]
            averages.append(total / width)
            for i in range(width, len(values)):
                total = total + values[i] - values[i + width]
                averages.append(total / width)
            return averages
        """,
        (([1, 2, 3, 4], 2), [1.5, 2.5, 3.5]),
        (([2, 2, 2, 8, 2], 3), [2.0, 4.0, 4.0]),
        (([5, 1], 2), [3.0]),
    ),
    _bug(
        """
        def bubble_sort(items):
            items = list(items)
            swapped = True
            while swapped:
                swapped = False
                for i in range(len(items)):
                    if items[i] > items[i + 1]:
                        items[i], items[i + 1] = items[i + 1], items[i]
                        swapped = True
            return items
        """,
        (([3, 1, 2],), [1, 2, 3]),
        (([9, 7, 8, 1],), [1, 7, 8, 9]),
        (([1],), [1]),
    ),
    _bug(
        """
        def running_ratio(values):
            ratios = []
            previous = 0
            for value in values:
                ratios.append(value / previous)
                previous = value
            total = 0
            for ratio in ratios:
                total = total + ratio
            return round(total, 6)
        """,
        (([1, 2, 4],), 5.0),
        (([2, 2, 2],), 4.0),
        (([3, 6],), 5.0),
    ),
    _bug(
        """
        def transpose(rows):
            width = len(rows[0])
            height = len(rows)
            columns = []
            for j in range(width):
                column = []
                for i in range(height):
                    column.append(rows[j][i])
                columns.append(column)
            return columns
        """,
        (([[1, 2, 3], [4, 5, 6]],), [[1, 4], [2, 5], [3, 6]]),
        (([[1], [2]],), [[1, 2]]),
        (([[7]],), [[7]]),
    ),
    _bug(
        """
        def binary_search(items, wanted):
            low = 0
            high = len(items)
            while low <= high:
                middle = (low + high) // 2
                if items[middle] == wanted:
                    return middle
                if items[middle] < wanted:
                    low = middle + 1
                else:
                    high = middle - 1
            return -1
        """,
        (([1, 3, 5, 7], 5), 2),
        (([1, 3, 5, 7], 9), -1),
        (([2, 4], 2), 0),
        (([2, 4, 6], 7), -1),
    ),
    _bug(
        """
        def count_words(text):
            counts = {}
            words = text.lower().split()
            for word in words:
                if word in counts:
                    counts[word] = 1
                else:
                    counts[word] = counts[word] + 1
            return counts
        """,
        (("a b a",), {"a": 2, "b": 1}),
        (("x",), {"x": 1}),
        (("one two two two",), {"one": 1, "two": 3}),
    ),
    _bug(
        """
        def horner(coefficients, x):
            degree = len(coefficients)
            value = coefficients[degree]
            for k in range(degree - 1):
                value = value * x + coefficients[degree - 2 - k]
            return value
        """,
        (([1, 2, 3], 2), 17),
        (([5], 3), 5),
        (([0, 1], 4), 4),
    ),
    _bug(
        """
        def pair_sums(left, right):
            sums = []
            shorter = len(left)
            if len(right) > shorter:
                shorter = len(right)
            for i in range(shorter):
                sums.append(left[i] + right[i])
            return sums
        """,
        (([1, 2, 3], [1, 1]), [2, 3]),
        (([1], [4, 5]), [5]),
        (([2, 2], [3, 3]), [5, 5]),
    ),
    _bug(
        """
        def harmonic_mean(values):
            total = 0.0
            count = 0
            for value in values:
                if value >= 0:
                    total = total + 1 / value
                    count = count + 1
            if count == 0:
                return 0.0
            return round(count / total, 6)
        """,
        (([1, 2, 0],), 1.333333),
        (([4, 4],), 4.0),
        (([0],), 0.0),
    ),
    _bug(
        """
        def decode_runs(pairs):
            text = ""
            length = 0
            for pair in pairs:
                symbol = pair[0]
                repeat = pair[1]
                text = text + symbol * symbol
                length = length + repeat
            if len(text) != length:
                return ""
            return text
        """,
        (([["a", 2], ["b", 1]],), "aab"),
        (([["x", 3]],), "xxx"),
        (([],), ""),
    ),
]
WRONG = [
    _bug(
        """
        def greatest_divisor(a, b):
            while b > 0:
                remainder = a // b
                a = b
                b = remainder
            return a
        """,
        ((12, 18), 6),
        ((7, 3), 1),
        ((10, 5), 5),
    ),
    _bug(
        """
        def fibonacci(n):
            a = 0
            b = 1
            for i in range(n):
                c = a + b
                a = b
                b = a
            return a
        """,
        ((1,), 1),
        ((6,), 8),
        ((10,), 55),
    ),
    _bug(
        """
        def is_palindrome(text):
            left = 0
            right = len(text) - 1
            while left < right:
                if text[left] == text[right]:
                    return False
                left = left + 1
                right = right - 1
            return True
        """,
        (("level",), True),
        (("abc",), False),
        (("noon",), True),
        (("ab",), False),
    ),
    _bug(
        """
        def variance(values):
            mean = sum(values) / len(values)
            total = 0.0
            for value in values:
                total = total + (value + mean) ** 2
            return round(total / len(values), 6)
        """,
        (([1, 2, 3],), 0.666667),
        (([4, 4],), 0.0),
        (([0, 10],), 25.0),
    ),
    _bug(
        """
        def largest(values):
            best = values[0]
            for value in values:
                if value < best:
                    best = value
            return best
        """,
        (([3, 9, 2],), 9),
        (([-1, -5],), -1),
        (([4],), 4),
    ),
    _bug(
        """
        def primes_below(n):
            found = []
            for candidate in range(2, n):
                prime = True
                for divisor in range(3, candidate):
                    if candidate % divisor == 0:
                        prime = False
                if prime:
                    found.append(candidate)
            return found
        """,
        ((10,), [2, 3, 5, 7]),
        ((3,), [2]),
        ((20,), [2, 3, 5, 7, 11, 13, 17, 19]),
    ),
    _bug(
        """
        def digits_sum(n):
            total = 0
            while n > 10:
                total = total + n % 10
                n = n // 10
            return total + n
        """,
        ((123,), 6),
        ((10,), 1),
        ((9,), 9),
        ((100,), 1),
    ),
    # The next two need more than one small change; they are there since real bugs do.
    _bug(
        """
        def leap_year(year):
            if year % 4 == 0:
                return True
            return False
        """,
        ((2000,), True),
        ((1900,), False),
        ((2024,), True),
        ((2004,), True),
        ((2023,), False),
    ),
    _bug(
        """
        def median(values):
            ordered = list(values)
            middle = len(ordered) // 2
            if len(ordered) % 2 == 1:
                return ordered[middle]
            return (ordered[middle] + ordered[middle + 1]) / 2
        """,
        (([3, 1, 2],), 2),
        (([4, 1, 3, 2],), 2.5),
        (([1],), 1),
    ),
    _bug(
        """
        def clamp_all(values, low, high):
            clamped = []
            for value in values:
                if value < low:
                    value = high
                if value > high:
                    value = high
                clamped.append(value)
            return clamped
        """,
        (([-5, 5, 50], 0, 10), [0, 5, 10]),
        (([1], 0, 10), [1]),
        (([-1, -2], 0, 1), [0, 0]),
    ),
]
SEEN = [*RAISING, *WRONG]
