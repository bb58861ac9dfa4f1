#!/usr/bin/env python3
"""Writes the quick start's data into configs/quickstart/data/: corpus.jsonl (short texts for the base model),
train.jsonl and heldout.jsonl (dialogues with summaries, in SAMsum's fields id, dialogue, summary).

Every sentence comes from the grammar below: a template's [a|b] is a choice and {name} a slot.  No random
number of the platform is involved, so every Python 3 writes the same bytes; a test compares them with
the files in the tree.
"""
import argparse
import json
import pathlib
import re

CORPUS_DOCUMENTS, TRAIN_ROWS, HELDOUT_ROWS = 4000, 600, 60

WOMEN = "Anna Clara Emma Ida Julia Nora Olga Rosa".split()
MEN = "Ben Carl David Felix Jack Leo Oscar Tom".split()
SLOTS = {
    "day": "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday",
    "time": "six|seven|eight|nine|ten|noon|two|three|four|five",
    "place": "the library|the harbour|the market|the museum|the station|the school|the old mill|the town hall|the bakery|"
             "the lake|the park|the theatre|the beach|the bridge",
    "act": "play chess|watch a film|paint a wall|cook soup|practise a song|ride bikes|fly a kite|plant a tree|read poems|"
           "build a boat|learn to dance|take photos",
    "chore": "clean the house|visit the doctor|finish a report|feed the horses|study for a test|bake a cake|"
             "repair the roof|wash the car",
    "thing": "camera|ladder|bicycle|guitar|tent|hammer|kettle|lamp|suitcase|drum|radio|violin",
    "lost": "key|wallet|phone|ring|hat|scarf|passport|watch|glove|notebook",
    "food": "bread|cheese|apples|eggs|honey|rice|fish|butter|plums|tea|flour|carrots",
    "feast": "the wedding|the picnic|the party|the school feast|the concert|the birthday",
    "meeting": "the concert|the exam|the race|the meeting|the play|the lesson|the match|the trip",
    "reason": "it will rain|the hall is closed|the teacher is ill|there is too much snow|the bus is late|"
              "the lights are broken",
    "city": "Rome|Paris|Oslo|Vienna|Madrid|Dublin|Prague|Athens",
    "work": "a baker|a nurse|a teacher|a pilot|a farmer|a painter|a driver|a cook",
    "month": "January|March|April|May|June|July|August|October",
}
HI = "[Hi|Hello|Hey|Good morning]"

# A script: the turns (speaker A or B; '?' before a turn that may be left out), the summary, and the way
# the corpus retells it.  {he}, {him}, {his} are A's; {bhe}, {bhim}, {bhis} are B's.
SCRIPTS = [
    ("""A: @ {B}, are you free on {day}?
        B: [Yes, I am|I think so|Yes, all day]. Why do you ask?
        A: [Let us|We could|I would like to] {act} at {place}.
        B: [Great|Good idea|That sounds fun]! What time?
        A: At {time}, if you like.
        ?B: [Fine|All right], see you there.""",
     "{A} and {B} will {act} at {place} on {day} at {time}.",
     "{A} asked {B} to {act}. They met at {place} on {day} at {time}."),
    ("""A: @ {B}, do you want to {act} on {day2}?
        B: On {day2} I have to {chore}.
        A: [What about|How about] {day} then?
        B: {day} is [fine|good|better]. Where shall we meet?
        A: At {place}, at {time}.
        ?B: [I will be there|See you then].""",
     "{A} and {B} will {act} at {place} on {day} at {time}.",
     "{A} asked {B} to {act}. They met at {place} on {day} at {time}."),
    ("""A: @ {B}, [how are you|what is new]?
        B: [Very well|Good], thank you. [And you|What about you]?
        A: I am fine. Will you come to {place} on {day}? We could {act}.
        B: Sorry, on {day} I have to {chore}.
        ?A: [What a pity|Too bad].""",
     "{B} cannot {act} with {A} on {day} because {bhe} has to {chore}.",
     "{A} wanted to {act} on {day}. {B} could not come, because {bhe} had to {chore}."),
    ("""A: @ {B}, [can you help me|I need your help|may I ask you something]?
        B: [Of course|Sure], what do you need?
        A: I need a {thing} [for a few days|this week].
        B: You can have my {thing}, but I need it back on {day}.
        ?A: [Thank you|Thanks] so much!""",
     "{B} will lend {A} a {thing} until {day}.",
     "{A} needed a {thing}. {B} gave {him} one and got it back on {day}."),
    ("""A: {B}, [do you still have|where is] my {thing}?
        B: [Yes, it is here|It is at home]. Do you need it?
        A: Yes, I need it on {day}.
        B: I will bring it to {place} at {time}.
        ?A: [Good|Very good], thank you.""",
     "{B} will bring {A}'s {thing} to {place} on {day} at {time}.",
     "{A} wanted the {thing} back. {B} brought it to {place} on {day} at {time}."),
    ("""A: @ {B}, [I am so sad|what a bad day|I have a problem].
        B: [What happened|What is wrong|Why]?
        A: I lost my {lost} [yesterday|this morning|today].
        B: A {lost}? I found one at {place}!
        ?A: [Oh, that is mine|That must be mine]!
        ?B: You can have it on {day}.""",
     "{B} found {A}'s {lost} at {place}.",
     "{A} lost a {lost}. {B} found it at {place}."),
    ("""A: {B}, [who does the shopping|what do we need] for {feast}?
        B: We need {food} and {food2}.
        A: [I have no time|I must work today]. Can you buy it?
        B: Yes, I will go to {place} on {day}.
        ?A: [Great|Wonderful], thank you.""",
     "{B} will buy {food} and {food2} for {feast} at {place} on {day}.",
     "They needed {food} and {food2} for {feast}. {B} went to {place} on {day} and bought it."),
    ("""A: {B}, did you hear about {meeting}?
        B: No, what [happened|about it]? Is it not on {day2}?
        A: It is on {day} now, because {reason}.
        ?B: [Good to know|I see]. I will tell the others.
        ?A: Thank you.""",
     "{B} learns that {meeting} has moved from {day2} to {day} because {reason}.",
     "{A} told {B} the news. {meeting^} moved from {day2} to {day}, because {reason}."),
    ("""A: @ {B}, are you still at {place2}?
        B: No, I am at {place} now. [I am tired|It is late|It is cold].
        A: Shall I come with the car?
        B: Yes, please! I am ready at {time}.
        ?A: [Good|Fine], I will be there.""",
     "{A} will pick {B} up from {place} at {time}.",
     "{B} was tired. {A} came with the car and picked {bhim} up from {place} at {time}."),
    ("""A: {B}, you know [about machines|how things work], do you not?
        B: A little. What is broken?
        A: My {thing}. It does not work any more.
        B: I can repair it on {day}.
        ?A: [You are so kind|That would be great]!
        ?B: Bring it to {place}.""",
     "{A}'s {thing} is broken and {B} will repair it on {day}.",
     "{A}'s {thing} did not work. {B} repaired it on {day}."),
    ("""A: @ {B}! [I have news|Guess what|You will not believe it].
        B: [Tell me|What is it|Is it good news]?
        A: I will move to {city} in {month}.
        B: [Really|Oh]! What will you do there?
        A: I will work as {work}.
        ?B: [I will miss you|Good luck].""",
     "{A} will move to {city} in {month} to work as {work}.",
     "{A} had news for {B}. In {month} {he} moved to {city} and worked as {work} there."),
    ("""A: {B}, [have you seen {C}|where is {C}]? {Che} is not at home.
        B: {C} is at {place}[ today| this week|]. {Che} has to {chore}.
        A: When will {che} be back?
        B: On {day}, I think.
        ?A: [Thank you|Then I will wait].""",
     "{C} is at {place} and will be back on {day}.",
     "{A} was looking for {C}. {B} knew that {che} was at {place} until {day}."),
    ("""A: {B}, [the {thing} is gone|I cannot find the {thing}]. Do you know where it is?
        B: I gave it to {C} on {day2}. {Che} needed it to {act}.
        A: [I see|Good]. I will ask {chim} on {day}.""",
     "{B} gave the {thing} to {C} and {A} will ask {chim} about it on {day}.",
     "{A} was looking for the {thing}. {C} had it from {B}, and {A} asked {chim} on {day}."),
    ("""A: @ {B}, is {C} with you?
        B: [Yes|Yes, why]?
        A: {Che} has my {lost}. I need it before {time}.
        B: [No problem|Do not worry]. We will bring it to {place}.""",
     "{B} and {C} will bring {A}'s {lost} to {place} before {time}.",
     "{C} had {A}'s {lost}. {B} and {C} brought it to {place} before {time}."),
    ("""A: [What shall we eat|What shall we cook] at {feast}, {B}?
        B: Not {food2} again, please.
        A: [Fine|All right]. Shall I make something with {food}?
        B: [Yes|Oh yes], {food} is good. And {C} will bring {chis} {thing}.
        ?A: [Perfect|Very good].""",
     "{A} will make something with {food} and {C} will bring {chis} {thing} to {feast}.",
     "{A} made something with {food} for {feast}. {C} brought {chis} {thing}."),
]

STORIES = [
    "[One morning|One day|Last {day}|In {month}] {A} went to {place} to {act}. There {he} met {B}. {B} wanted to {chore}, but "
    "{A} asked {bhim} to stay. In the end they [both went|went] home [happy|tired|late] at {time}.",
    "{A} was {work} in {city}. Every {day} {he} went to {place} and bought {food} and {food2}. One {day} {he} lost {his} {lost}. "
    "{B} found it and brought it back. {A} thanked {B} and gave {bhim} some {food}.",
    "[Once|Long ago] there was a {thing} that nobody wanted. {A} found it at {place} and took it home. It did not work, so "
    "{A} repaired it. On {day} {B} came and wanted to have it. {A} said: It is yours.",
    "{A} and {B} wanted to {act} on {day}. But {reason}. So {A} had to {chore} and {B} went to {place}. [They were sad.|"
    "They did it on {day2}.|It was a long day.]",
    "{A} wanted to go to {city} in {month}. {He} had no suitcase. {B} had one and gave it to {him}. In {city} {A} found a "
    "{lost} for {B}. When {he} came back, {B} was at the station.",
]
REPORTS = [
    "Report of {day}, {month}. {meeting^} at {place} moved to {day2} because {reason}. {A} and {B} will tell the others.",
    "News from {city}. On {day} {A}, {work}, found a {lost} at {place}. It belongs to {B}. {B} can have it at {time}.",
    "Plan for {feast}. {A} buys {food} and {food2} on {day}. {B} brings a {thing} to {place}. We start at {time}.",
    "{day}: {A} has to {chore}. {day2}: {B} has to {chore2}. At {time} they meet at {place}.",
    "List for {feast}: {food}, {food2}, a {thing}. {A} will be at {place} at {time}, {B} will come on {day}.",
]
FACTS = [
    "{day2} is not {day}. A week has seven days.", "{city} is a city. {city2} is a city too. {A} lives in {city}.",
    "{food^} and {food2} can be bought at the market. {A} likes {food}, {B} likes {food2}.",
    "A {thing} is bigger than a {lost}. {A} has a {thing}, {B} has a {lost}.",
    "{A} is {work}. {B} is {work2}. {A} and {B} work in {city}.",
    "Question: Who will {act}? Answer: {A} will {act}. Question: Who has to {chore}? Answer: {B} has to {chore}.",
    "Question: When is {meeting}? Answer: On {day} at {time}. Question: Where is it? Answer: At {place}.",
]
# Notes of a conversation: a heading for each slot of its summary.
HEADINGS = {"A": "Who", "B": "Who", "C": "Who", "day": "Day", "day2": "Other day", "time": "Time", "place": "Place",
            "act": "Plan", "chore": "Duty", "thing": "Thing", "lost": "Thing", "food": "Food", "food2": "Food",
            "feast": "For", "meeting": "What", "reason": "Why", "city": "City", "work": "Work", "month": "Month"}
RETOLD = ["\n\nWhat happened?\n", "\n\nThe story:\n", "\n\nLater {A} told it like this:\n"]


# Games in which a line is said again: short texts rich in what a summary needs most, finding a word that came before.
GAMES = ["[Memory game.|A game of memory.]\n", "[Say it after me.|Repeat what I say.]\n", ""]


class Draw:
    """xorshift64*: the same numbers everywhere."""

    def __init__(self, seed):
        self.state = seed * 0x9E3779B97F4A7C15 % 2**64 or 1

    def below(self, n):
        x = self.state
        x ^= x >> 12
        x = (x ^ x << 25) % 2**64
        x ^= x >> 27
        self.state = x
        return (x * 0x2545F4914F6CDD1D % 2**64 >> 33) % n

    def pick(self, items):
        return items[self.below(len(items))]

    def shuffle(self, items):
        for i in range(len(items) - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]


def filled_slots(draw):
    """One value for every slot; name and name2 differ."""
    values = {}
    for name, words in SLOTS.items():
        words = words.split("|")
        values[name] = draw.pick(words)
        values[name + "2"] = draw.pick([w for w in words if w != values[name]])
    people = WOMEN + MEN
    draw.shuffle(people)
    for role, prefix, name in zip("ABC", ("", "b", "c"), people):
        values[role] = name
        she = name in WOMEN
        for word, other in (("he", "she"), ("him", "her"), ("his", "her")):
            values[prefix + word] = other if she else word
            values[(prefix + word).capitalize()] = values[prefix + word].capitalize()
    values["Che"] = values["che"].capitalize()
    return values


def expand(draw, template, values):
    while "[" in template:
        template = re.sub(r"\[([^][]*)\]", lambda m: draw.pick(m[1].split("|")), template, count=1)

    def slot(m):
        value = values[m[1]]
        return value[0].upper() + value[1:] if m[2] else value

    return re.sub(r"\{(\w+)(\^?)\}", slot, template)


def conversation(draw):
    """-> dialogue, summary, retelling, notes"""
    turns, summary, retelling = draw.pick(SCRIPTS)
    values = filled_slots(draw)
    lines = []
    for turn in turns.split("\n"):
        turn = turn.strip()
        if turn[0] == "?":
            if draw.below(2):
                break  # an optional turn answers the one before it, so leave out all that follow
            turn = turn[1:]
        lines.append(values[turn[0]] + expand(draw, turn[1:].replace("@", HI), values))
    parts = ["\n".join(lines), expand(draw, summary, values), expand(draw, draw.pick(RETOLD) + retelling, values)]
    found = [n for n in re.findall(r"\{(\w+)\}", summary) if n in HEADINGS]
    notes = "\n\nNotes" + "".join(f"\n{HEADINGS[n]}: {values[n]}" for n in dict.fromkeys(found))
    return [*parts, notes]


def memory_game(draw):
    words = [w for name in SLOTS for w in SLOTS[name].split("|")] + WOMEN + MEN
    said = ", ".join(draw.pick(words) for _ in range(4 + draw.below(9)))
    first, second, third = (draw.pick(WOMEN + MEN) for _ in range(3))
    text = f"{first}: {said}.\n{second}: {said}."
    if draw.below(2):
        text += f"\n{third}: {said}."
    return expand(draw, draw.pick(GAMES), {}) + text


def corpus(draw):
    for _ in range(CORPUS_DOCUMENTS):
        kind = draw.below(20)
        if kind < 4:
            yield memory_game(draw)
        elif kind < 14:
            dialogue, _, retelling, notes = conversation(draw)
            yield dialogue + draw.pick([retelling, notes + retelling, retelling + notes])
        else:
            some = STORIES if kind < 17 else REPORTS if kind < 19 else FACTS
            yield expand(draw, draw.pick(some), filled_slots(draw))


def dialogue_sets(draw):
    """-> training rows, held-out rows: no dialogue and no summary twice, in one part or in both."""
    rows, seen = [], set()
    while len(rows) < TRAIN_ROWS + HELDOUT_ROWS:
        dialogue, summary, _, _ = conversation(draw)
        if dialogue not in seen and summary not in seen:
            seen.update((dialogue, summary))
            rows.append((dialogue, summary))
    for part, some in (("train", rows[:TRAIN_ROWS]), ("heldout", rows[TRAIN_ROWS:])):
        yield part, [{"id": f"{part}-{i:03}", "dialogue": d, "summary": s} for i, (d, s) in enumerate(some, 1)]


def files():
    """name -> text of every file"""
    out = {"corpus": [{"text": t} for t in corpus(Draw(1))], **dict(dialogue_sets(Draw(2)))}
    return {f"{name}.jsonl": "".join(json.dumps(row) + "\n" for row in rows) for name, rows in out.items()}


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    root = pathlib.Path(__file__).resolve().parent.parent
    ap.add_argument("--out", type=pathlib.Path, default=root / "configs/quickstart/data")
    out = ap.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (out / name).write_bytes(text.encode())


if __name__ == "__main__":
    main()
