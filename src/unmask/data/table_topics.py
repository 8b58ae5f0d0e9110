"""What generated tables are about: topics, their columns, and the ways of speaking of them. Facts and phrases only.

A phrase never begins a sentence here: `tables.py` puts a key before it and a full stop behind it. A predicate begins
with its verb in the singular. Everything is invented, except which city lies in which country and which animal is of
which kind; those are the same in every table, so that a text also holds something to be remembered.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Category:
    """A column of words.

    Attributes:
        name: its header.
        values: what its cells may hold.
        says: predicates, `{value}` in them: "lives in {value}".
        asks: questions after it, `{key}` in them.
        by_key: the same word for a key in every table; then its cells are no use for testing who reads a table.
    """

    name: str
    values: tuple[str, ...]
    says: tuple[str, ...]
    asks: tuple[str, ...]
    by_key: bool = False


@dataclass(frozen=True)
class Quantity:
    """A column of whole numbers.

    Attributes:
        name: its header. unit: what is counted. low, high, step: the numbers a cell may hold.
        says, asks: as for a category.
        more, less: predicates before "than KEY". most, least: whole predicates.
        over, under: predicates with a bound, `{value}` in them.
    """

    name: str
    unit: str
    low: int
    high: int
    step: int
    says: tuple[str, ...]
    asks: tuple[str, ...]
    more: str
    less: str
    most: str
    least: str
    over: str
    under: str


@dataclass(frozen=True)
class Topic:
    """A kind of table.

    Attributes:
        name: as a user selects it. thing, things: what a row is.
        header: header of the key column. article: what a sentence puts before a key ("the ", or nothing).
        keys: names of rows.
        columns: of which a table takes some.
        titles: of tables, also used as a first sentence.
    """

    name: str
    thing: str
    things: str
    header: str
    article: str
    keys: tuple[str, ...]
    columns: tuple[Category | Quantity, ...]
    titles: tuple[str, ...]


def _graded(more: str, most: str, less: str, least: str, unit: str) -> tuple[str, ...]:
    """The comparing phrases of an adjective: "is 40 years old", "is older", "is the oldest"."""
    return (
        f"is {more}",
        f"is {less}",
        f"is the {most}",
        f"is the {least}",
        f"is {more} than {{value}} {unit}",
        f"is {less} than {{value}} {unit}",
    )


def _counted(verb: str, noun: str) -> tuple[str, ...]:
    """The comparing phrases of something one has: "has more goals", "has the most goals"."""
    return (
        f"{verb} more {noun}",
        f"{verb} fewer {noun}",
        f"{verb} the most {noun}",
        f"{verb} the fewest {noun}",
        f"{verb} more than {{value}} {noun}",
        f"{verb} fewer than {{value}} {noun}",
    )


def words(text: str) -> tuple[str, ...]:
    """What stands between the spaces."""
    return tuple(text.split())


_PEOPLE = words(
    "Anna Ben Clara David Emma Felix Grace Hugo Iris Jonas Karin Leo Maria Noah Olga Paul Rosa Simon Tara Victor "
    "Wendy Yusuf Zoe Amir Bella Carlos Diana Elias Fiona Goran"
)
_CITIES = (
    ("Oslo", "Norway"), ("Bergen", "Norway"), ("Paris", "France"), ("Lyon", "France"), ("Rome", "Italy"),
    ("Milan", "Italy"), ("Madrid", "Spain"), ("Seville", "Spain"), ("Lisbon", "Portugal"), ("Porto", "Portugal"),
    ("Berlin", "Germany"), ("Hamburg", "Germany"), ("Vienna", "Austria"), ("Graz", "Austria"), ("Athens", "Greece"),
    ("Cairo", "Egypt"), ("Lima", "Peru"), ("Cusco", "Peru"), ("Quito", "Ecuador"), ("Tokyo", "Japan"),
    ("Osaka", "Japan"), ("Seoul", "Korea"), ("Delhi", "India"), ("Mumbai", "India"), ("Nairobi", "Kenya"),
    ("Mombasa", "Kenya"), ("Toronto", "Canada"), ("Montreal", "Canada"), ("Krakow", "Poland"), ("Warsaw", "Poland"),
)  # fmt: skip
_ANIMALS = (
    ("otter", "mammal"), ("lion", "mammal"), ("horse", "mammal"), ("bat", "mammal"), ("whale", "mammal"),
    ("rabbit", "mammal"), ("eagle", "bird"), ("owl", "bird"), ("parrot", "bird"), ("penguin", "bird"),
    ("swan", "bird"), ("cobra", "reptile"), ("lizard", "reptile"), ("turtle", "reptile"), ("crocodile", "reptile"),
    ("salmon", "fish"), ("trout", "fish"), ("shark", "fish"), ("frog", "amphibian"), ("newt", "amphibian"),
    ("beetle", "insect"), ("moth", "insect"), ("ant", "insect"), ("bee", "insect"),
)  # fmt: skip
COUNTRY_OF = dict(_CITIES)
KIND_OF = dict(_ANIMALS)
BY_KEY = {**COUNTRY_OF, **KIND_OF}
_COLOURS = ("red", "blue", "green", "yellow", "black", "white", "brown", "purple")
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = words("January February March April May June July August September October November December")
_SOME_CITIES = tuple(COUNTRY_OF)[::2]

TOPICS: tuple[Topic, ...] = (
    Topic(
        "people", "person", "people", "name", "", _PEOPLE,
        (
            Quantity("age", "years", 18, 90, 1, ("is {value} years old", "turned {value} this year"),
                     ("How old is {key}?", "What is the age of {key}?"),
                     *_graded("older", "oldest", "younger", "youngest", "years")),
            Category("city", _SOME_CITIES, ("lives in {value}", "has a home in {value}"),
                     ("Where does {key} live?", "In which city does {key} live?")),
            Category("job", ("doctor", "teacher", "baker", "pilot", "farmer", "lawyer", "nurse", "painter", "driver"),
                     ("works as a {value}", "earns a living as a {value}"),
                     ("What is the job of {key}?", "What does {key} work as?")),
            Quantity("height", "cm", 150, 205, 1, ("is {value} cm tall", "measures {value} cm"),
                     ("How tall is {key}?", "What is the height of {key}?"),
                     *_graded("taller", "tallest", "shorter", "shortest", "cm")),
        ),
        ("Some people and where they live", "A group of friends", "The members of a club"),
    ),
    Topic(
        "cities", "city", "cities", "city", "", tuple(COUNTRY_OF),
        (
            Category("country", tuple(dict.fromkeys(COUNTRY_OF.values())), ("lies in {value}", "is a city in {value}"),
                     ("In which country does {key} lie?", "Which country does {key} belong to?"), by_key=True),
            Quantity("parks", "parks", 3, 80, 1, ("has {value} parks", "counts {value} parks"),
                     ("How many parks does {key} have?", "What is the number of parks in {key}?"),
                     *_counted("has", "parks")),
            Quantity("museums", "museums", 2, 60, 1, ("has {value} museums", "is home to {value} museums"),
                     ("How many museums does {key} have?", "What is the number of museums in {key}?"),
                     *_counted("has", "museums")),
            Category("market day", _DAYS, ("holds its market on {value}", "has its market day on {value}"),
                     ("On which day does {key} hold its market?", "When is the market day of {key}?")),
        ),
        ("A few cities", "Notes from a journey", "Cities and what they offer"),
    ),
    Topic(
        "products", "product", "products", "product", "the ",
        words("lamp chair table kettle blanket basket mirror clock vase pillow carpet bottle ladder hammer bucket "
              "mug notebook umbrella suitcase candle"),
        (
            Quantity("price", "dollars", 5, 300, 5, ("costs {value} dollars", "sells for {value} dollars"),
                     ("How much does {key} cost?", "What is the price of {key}?"),
                     "costs more", "costs less", "costs the most", "costs the least",
                     "costs more than {value} dollars", "costs less than {value} dollars"),
            Quantity("stock", "pieces", 1, 99, 1, ("has {value} pieces in stock", "counts {value} pieces on the shelf"),
                     ("How many pieces of {key} are in stock?", "What is the stock of {key}?"),
                     *_counted("has", "pieces")),
            Category("color", _COLOURS, ("is {value}", "comes in {value}"),
                     ("What is the color of {key}?", "Which color does {key} have?")),
            Category("material", ("wood", "steel", "glass", "plastic", "paper", "wool", "clay"),
                     ("consists of {value}", "contains mostly {value}"),
                     ("What does {key} consist of?", "What is the material of {key}?")),
        ),
        ("Goods in a small shop", "The price list of a store", "Things for the house"),
    ),
    Topic(
        "animals", "animal", "animals", "animal", "the ", tuple(KIND_OF),
        (
            Category("kind", tuple(dict.fromkeys(KIND_OF.values())),
                     ("is of the {value} kind", "counts as a kind of {value}"),
                     ("Of which kind is {key}?", "What kind of animal is {key}?"), by_key=True),
            Quantity("age", "years", 1, 60, 1, ("is {value} years old", "has reached {value} years"),
                     ("How old is {key}?", "What is the age of {key}?"),
                     *_graded("older", "oldest", "younger", "youngest", "years")),
            Category("food", ("seeds", "grass", "meat", "fruit", "insects", "leaves"),
                     ("eats {value}", "feeds on {value}"),
                     ("What does {key} eat?", "What is the food of {key}?")),
            Quantity("visitors", "visitors", 10, 500, 10,
                     ("sees {value} visitors a day", "draws {value} visitors a day"),
                     ("How many visitors does {key} see?", "What is the number of visitors of {key}?"),
                     *_counted("sees", "visitors")),
        ),
        ("Animals in a zoo", "The animals of a park", "Who lives in the zoo"),
    ),
    Topic(
        "teams", "team", "teams", "team", "",
        words("Ashford Brookdale Carlton Dunmore Easton Fairview Granby Hillside Ironton Kingsley Lakewood Milford "
               "Norwood Oakham Preston Redhill"),
        (
            Quantity("wins", "wins", 0, 40, 1, ("has {value} wins", "won {value} games"),
                     ("How many wins does {key} have?", "What is the number of wins of {key}?"),
                     *_counted("has", "wins")),
            Quantity("goals", "goals", 5, 120, 1, ("has {value} goals", "scored {value} goals"),
                     ("How many goals does {key} have?", "What is the number of goals of {key}?"),
                     *_counted("has", "goals")),
            Category("home", _SOME_CITIES, ("plays in {value}", "comes from {value}"),
                     ("Where does {key} play?", "What is the home of {key}?")),
            Category("shirt", _COLOURS, ("wears {value} shirts", "plays in {value} shirts"),
                     ("Which shirts does {key} wear?", "What is the shirt of {key}?")),
        ),
        ("The teams of a league", "A season of games", "Results of the league"),
    ),
    Topic(
        "books", "book", "books", "title", "",
        ("The Long Road", "Silent Water", "A Winter Tale", "The Glass Door", "Night Train", "Summer Rain",
         "The Last Key", "Blue Harbor", "The Old Mill", "Paper Boats", "The Quiet Hill", "Salt and Stone",
         "The Lost Map", "Green Valley", "Morning Light", "The Iron Gate"),
        (
            Category("author", _PEOPLE[::2], ("came from the pen of {value}", "has {value} as its author"),
                     ("What is the author of {key}?", "Which author wrote {key}?")),
            Quantity("pages", "pages", 80, 900, 10, ("has {value} pages", "runs to {value} pages"),
                     ("How many pages does {key} have?", "What is the number of pages of {key}?"),
                     *_counted("has", "pages")),
            Quantity("loans", "loans", 0, 75, 1, ("has {value} loans", "saw {value} loans this year"),
                     ("How many loans does {key} have?", "What is the number of loans of {key}?"),
                     *_counted("has", "loans")),
            Category("genre", ("crime", "romance", "history", "travel", "poetry", "fantasy"),
                     ("stands on the {value} shelf", "is a {value} book"),
                     ("What is the genre of {key}?", "On which shelf does {key} stand?")),
        ),
        ("Books in the library", "A reading list", "The shelves of a school library"),
    ),
    Topic(
        "rivers", "river", "rivers", "river", "the ",
        words("Alba Brin Corva Delna Elmar Forsa Gelt Hava Irun Jora Kessel Lunda Merin Norra Orba Pelva"),
        (
            Quantity("length", "km", 40, 990, 10, ("is {value} km long", "flows for {value} km"),
                     ("How long is {key}?", "What is the length of {key}?"),
                     *_graded("longer", "longest", "shorter", "shortest", "km")),
            Quantity("depth", "meters", 1, 40, 1, ("is {value} meters deep", "reaches a depth of {value} meters"),
                     ("How deep is {key}?", "What is the depth of {key}?"),
                     *_graded("deeper", "deepest", "shallower", "shallowest", "meters")),
            Category("mouth", ("a lake", "the sea", "a delta", "a bay", "a swamp"),
                     ("ends in {value}", "flows into {value}"),
                     ("Where does {key} end?", "What does {key} flow into?")),
            Quantity("bridges", "bridges", 0, 60, 1, ("has {value} bridges", "passes under {value} bridges"),
                     ("How many bridges does {key} have?", "What is the number of bridges of {key}?"),
                     *_counted("has", "bridges")),
        ),
        ("Rivers of the north", "A survey of rivers", "Waters of a small country"),
    ),
    Topic(
        "trains", "train", "trains", "train", "train ",
        tuple(f"{letter}{number}" for letter in "ABCK" for number in (12, 17, 24, 38, 51, 66)),
        (
            Category("from", _SOME_CITIES[:8], ("departs from {value}", "starts in {value}"),
                     ("Where does {key} start?", "From which city does {key} depart?")),
            Category("to", _SOME_CITIES[8:], ("goes to {value}", "takes people to {value}"),
                     ("Where does {key} go?", "To which city does {key} go?")),
            Quantity("seats", "seats", 40, 600, 10, ("has {value} seats", "offers {value} seats"),
                     ("How many seats does {key} have?", "What is the number of seats of {key}?"),
                     *_counted("has", "seats")),
            Quantity("delay", "minutes", 0, 90, 1, ("is {value} minutes late", "has a delay of {value} minutes"),
                     ("How late is {key}?", "What is the delay of {key}?"),
                     "is later", "is less late", "is the latest", "is the least late",
                     "is more than {value} minutes late", "is less than {value} minutes late"),
        ),
        ("Trains of the day", "Departures", "A railway timetable"),
    ),
    Topic(
        "courses", "course", "courses", "course", "the course in ",
        words("French Spanish Chess Pottery Dance Cooking Drawing Sewing Yoga Guitar Piano Botany Physics Algebra "
              "Singing Writing"),
        (
            Category("day", _DAYS, ("meets on {value}", "takes place on {value}"),
                     ("On which day does {key} meet?", "When does {key} take place?")),
            Category("starts", _MONTHS, ("begins in {value}", "starts in {value}"),
                     ("In which month does {key} begin?", "When does {key} start?")),
            Quantity("students", "students", 3, 45, 1, ("has {value} students", "counts {value} students"),
                     ("How many students does {key} have?", "What is the number of students of {key}?"),
                     *_counted("has", "students")),
            Quantity("fee", "dollars", 10, 400, 10, ("costs {value} dollars", "asks a fee of {value} dollars"),
                     ("How much does {key} cost?", "What is the fee of {key}?"),
                     "costs more", "costs less", "costs the most", "costs the least",
                     "costs more than {value} dollars", "costs less than {value} dollars"),
        ),
        ("Evening courses", "What one can learn this year", "The program of a school"),
    ),
)  # fmt: skip
