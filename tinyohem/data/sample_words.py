"""Word lists of the built-in sample corpus: data only.

Entries stand from common to rare, separated by commas; `sample_grammar.py` draws from them with
Zipf-like weights, so the corpus holds words that a model learns at once and words that stay hard.
A `/` separates the fields of an entry; the notation is explained in `sample_grammar.py`.
"""

WORDS: dict[str, str] = {
    # ---- characters ----------------------------------------------------------------------------
    "girl_name": """
        Lily, Mia, Anna, Sue, Lucy, Emma, Zoe, Ella, Ruby, Nora, Molly, Sara, Amy, Daisy, Kim,
        Jane, Rose, Ivy, Clara, Maya, Tina, Bella, Hana, Leah, Penny, Grace, Nina, Ava, June,
        Priya, Olive, Wendy, Fiona, Greta, Yuki, Abby, Elsa, Carmen, Tess, Matilda
    """,
    "boy_name": """
        Tim, Tom, Ben, Max, Jack, Sam, Leo, Billy, Jake, Finn, Bob, Noah, Danny, Joe, Oliver,
        Luke, Theo, Henry, Omar, Eli, Peter, Mark, Toby, Adam, Felix, Hugo, Ravi, Owen,
        Charlie, Oscar, Walter, Simon, Kofi, Diego, Arthur, Ned, Rory, Kenji, Milo, Victor
    """,
    "animal_name": """
        Pip, Coco, Fuzzy, Pepper, Sunny, Bobo, Tiny, Hazel, Clover, Button, Fern, Maple, Poppy,
        Bramble, Ziggy, Dusty, Momo, Pebble, Snowy, Rusty, Twinkle, Scout, Willow, Bingo,
        Juniper, Pogo, Tumble, Marlow, Sprout, Quill
    """,
    "species": """
        rabbit, bear, fox, mouse, kitten, puppy, squirrel, hedgehog, raccoon, monkey, otter,
        panda, badger, koala, beaver, tiger, lion, hamster, mole, chipmunk, wombat, lynx
    """,
    "child_surname": """
        Brown, Green, Smith, White, Baker, Miller, Jones, Lee, Wilson, Garcia, Hill, Potter,
        Woods, Cooper, Rossi, Novak, Fisher, Patel
    """,
    "animal_surname": """
        Owl, Goose, Toad, Deer, Hen, Turtle, Crow, Goat, Duck, Heron, Sheep, Donkey, Stork
    """,
    "child_home": """
        in a small house near the [forest|sea|park], in a <color> house with a <color> door, in
        a little village, in a big city, on a farm, in a town by the sea, in a house on a hill,
        at the end of a quiet street, in a tall building full of windows, in a cottage beside a
        river, in a valley between two mountains, above a flower shop
    """,
    "animal_home": """
        in the forest, in a hollow tree, in a cozy den under an oak tree, near a quiet pond, in
        a burrow under the hill, in the green woods, at the edge of a meadow, in a hole beneath
        the roots of an old tree, on a sunny island, beside a bubbling stream, in a nest of dry
        leaves and moss
    """,
    # ---- looks and feelings --------------------------------------------------------------------
    "little": "little, little, small, young, kind, happy, curious, clever, brave, cheerful",
    "color": """
        red, blue, green, yellow, white, brown, pink, black, orange, purple, gray, golden,
        silver, violet, turquoise
    """,
    "fur": "brown, white, gray, black, golden, spotted, orange, speckled, cream-colored, silver",
    "nice": """
        pretty, new, special, lovely, beautiful, little, shiny, wonderful, fancy, old, perfect,
        fine, splendid
    """,
    "big": "big, small, tall, old, huge, round, crooked, leafy, wide, enormous, mossy",
    "happy": """
        happy, very happy, so happy, glad, excited, proud, so excited, cheerful, joyful,
        pleased, thankful, delighted
    """,
    "sad": "sad, very sad, upset, so sad, worried, unhappy, lonely, heartbroken, miserable, gloomy",
    "scared": """
        scared, very scared, afraid, frightened, nervous, a little scared, worried, terrified
    """,
    "kind": "kind, nice, good, helpful, friendly, gentle, thoughtful, caring, generous, polite",
    "yum": "yummy, sweet, tasty, delicious, warm, fresh, crunchy, wonderful, juicy, scrumptious",
    "softly": "softly, kindly, gently, quietly, in a soft voice, calmly, with a smile",
    # ---- time and place ------------------------------------------------------------------------
    "fine": """
        sunny, warm, bright, warm summer, nice, beautiful, fresh spring, quiet, lovely, breezy,
        clear, cool autumn, mild, golden, peaceful
    """,
    "day": """
        sunny, rainy, cold, bright, cloudy, windy, cold winter, gray, warm, snowy, foggy,
        stormy, chilly autumn, quiet, frosty, drizzly
    """,
    "gray": "gray, cloudy, windy, warm, quiet, gloomy, sticky, dark",
    "part": "day, day, morning, afternoon, Saturday, Sunday, weekend morning",
    "place": """
        the park/at, the forest/in, the garden/in, the beach/at, the river/by, the
        playground/at, the woods/in, the farm/at, the meadow/in, the lake/by, the market/at,
        the hill/on, the pond/by, the orchard/in, the fair/at, the valley/in, the harbor/at,
        the village square/in
    """,
    "wide": """
        the park/at, the forest/in, the market/at, the beach/at, the fair/at, the woods/in,
        the farm/at, the meadow/in, the village square/in, the harbor/at, the zoo/at
    """,
    "spot": """
        a <big> tree, a [big|flat|round|smooth|mossy] rock, a bush, a bench, the fence, a log,
        a pile of leaves, the gate, some tall grass, a stone wall, a wooden cart, a patch of
        flowers, a bucket, a wheelbarrow, an empty barrel, a mailbox, a heap of sticks
    """,
    "under": "the bed, the table, the chair, the sofa, the rug, the piano, the desk, the bathtub",
    "closet": "closet, big basket, cupboard, wardrobe, laundry basket, toy chest",
    # ---- things --------------------------------------------------------------------------------
    "hideout": """
        the sofa, the curtain, the table, the door, the big chair, the cupboard, the piano,
        the big clock
    """,
    "toy": """
        ball, teddy bear, doll, kite, toy car, toy boat, toy train, blanket, hat, robot, book,
        scarf, puppet, toy plane, wooden horse, whistle, yo-yo, umbrella, spinning top, toy
        dinosaur, backpack, bracelet, telescope, marble, music box
    """,
    "shared": """
        ball, kite, toy train, toy truck, drum, wagon, bucket, balloon, scooter, jump rope,
        paint set, bubble wand, hula hoop, box of crayons, toy castle, tambourine, trumpet
    """,
    "fragile": """
        vase, cup, plate, lamp, bowl, mirror, clock, jar, teapot, flower pot, pitcher, glass
        bird, picture frame, snow globe
    """,
    "fixable": """
        toy car, toy boat, kite, toy train, doll, robot, wagon, bike, toy plane, drum, scooter,
        rocking horse, music box, puppet, dollhouse
    """,
    "gift": """
        a book, a ball, a kite, a drawing, a <color> hat, a toy boat, a puzzle, a box of
        crayons, a warm scarf, a drum, a flower, a pair of boots, a jar of honey, a tiny bell,
        a necklace, a paper crown, a basket of berries, a seashell, a knitted sweater, a wooden
        flute
    """,
    "prize": """
        golden cup, <color> ribbon, shiny medal, silver bell, crown of <flowers>, huge jar of
        honey, trophy, <color> cape
    """,
    "treasure": """
        a pile of shiny coins, a <color> gem, a silver key, a golden bell, a box of
        <color> marbles, a little crown, a bag of seashells, a brass compass, a tiny ship in a
        bottle, a string of pearls, an ancient book of fairy tales, a letter from a sailor
    """,
    "job": """
        clean the kitchen, water the plants, sweep the floor, wash the windows, pick up the
        leaves, feed the chickens, carry the wood, fold the clothes, paint the fence, dust the
        shelves, weed the garden, polish the spoons
    """,
    "bake": """
        cake, pie, loaf of bread, apple pie, chocolate cake, pumpkin pie, carrot cake, cherry
        tart, lemon cake, loaf of banana bread, plum pudding, blueberry pie, ginger cake
    """,
    "mix_in": """
        sugar, milk, butter, eggs, flour, honey, cinnamon, salt, nuts, raisins, vanilla, cream,
        oats, lemon juice, yeast, sprinkles
    """,
    "snack": """
        cookies, apples, cake, bread, berries, sandwiches, soup, bananas, cheese, pancakes,
        grapes, carrots, muffins, noodles, popcorn, pears, strawberries, nuts, peaches, honey
        toast, corn, plums, melon, porridge, walnuts, dumplings
    """,
    "basket": """
        apples, berries, cookies, pears, strawberries, muffins, nuts, bread, plums, carrots,
        grapes, cherries, peaches, crackers, raspberries, apricots, chestnuts
    """,
    "topping": """
        berries, sugar, cream, cherries, nuts, honey, chocolate, sprinkles, raisins, jam,
        almonds
    """,
    "plant": """
        flower, tomato plant, sunflower, pumpkin, rose, bean plant, tulip, blueberry bush,
        strawberry plant, carrot, watermelon, pea plant, daisy, pepper plant, marigold
    """,
    "flowers": "flowers, roses, daisies, tulips, poppies, lilies, pansies, asters, carnations",
    "hurt": """
        bird/wing/seeds, kitten/paw/milk, puppy/paw/water, duckling/foot/bread crumbs,
        rabbit/leg/carrots, squirrel/leg/nuts, turtle/leg/lettuce, frog/leg/water,
        lamb/leg/grass, baby owl/wing/berries, hedgehog/paw/apples, chick/foot/corn,
        pigeon/wing/seeds, piglet/leg/turnips, baby goat/leg/leaves, swan/wing/oats
    """,
    "critter": """
        dog, cat, bird, squirrel, frog, snail, bee, ladybug, worm, caterpillar, lizard, spider,
        ant, toad, beetle, goat, grasshopper, rooster, crab, moth, salamander, peacock
    """,
    "bug": "ant, beetle, spider, caterpillar, snail, grasshopper",
    "noisy": """
        cat, mouse, dog, bird, owl, kitten, squirrel, raccoon, frog, cricket, goat, bat,
        parrot, woodpecker
    """,
    "chased": """
        butterfly, kitten, bird, puppy, squirrel, rabbit, duck, dragonfly, balloon, lizard,
        grasshopper, goose, peacock, lamb, paper plane
    """,
    "flyers": """
        birds, butterflies, bees, robins, ladybugs, sparrows, crows, blackbirds, owls, parrots,
        swallows, pigeons, finches
    """,
    "vehicle": "truck, car, bus, bike, train, tractor, fire truck, van, wagon, motorcycle, taxi",
    "thunder": "Boom, Crash, Bang, Rumble, Crack, Kaboom",
    "big_thing": """
        big oak tree, tall rock, dark cave, old well, stone bridge, ruined tower, windmill,
        lighthouse
    """,
    "dream": """
        a flying horse, a <color> dragon, the moon, a castle, a big ship, the sea, clouds made of
        sugar, dancing bears, a magic tree, a talking fish, a mountain of <snack>, pirates,
        faraway islands, a rocket, a friendly giant
    """,
    "far": """
        the moon, the sea, a castle, the stars, an island, the North Pole, the jungle, a cave
        of dragons, the bottom of the ocean, the desert, the land of giants, the middle of
        nowhere
    """,
    "cloud": """
        dragon, sheep, fish, boat, rabbit, castle, pillow, whale, mushroom, giant shoe,
        dinosaur, teapot, elephant, snowman
    """,
    # ---- doing ---------------------------------------------------------------------------------
    "hobby": """
        play outside, sing, run, draw pictures, read books, jump, play with {his} friends, look
        at the stars, dance, climb trees, tell stories, splash in puddles, collect <color>
        stones, build towers, help {his} {parent}, chase butterflies, paint, count the clouds,
        explore, listen to the rain, solve puzzles, invent funny songs
    """,
    "game": """
        hide and seek, tag, catch, a new game, pirates, a counting game, kings and queens,
        soccer, leapfrog, store, explorers, marbles, astronauts, hopscotch
    """,
}
