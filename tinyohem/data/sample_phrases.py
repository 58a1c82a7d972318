"""Sentences that the plots of the built-in sample corpus share: data only.

One entry a line, from common to rare, as in `sample_words.py`.
"""

PHRASES: dict[str, str] = {
    "intro": """
        a <little> {kid} named {hero}
    """,
    "skill": """
        ride a bike/The bike wobbled and tipped over/to the park
        swim/Water splashed into {his} nose/to the lake
        climb a tree/{He} slipped off the lowest branch/to the orchard
        fly a kite/The kite dived straight into the grass/to the hill
        skate/{His} feet went in two different directions/to the frozen pond
        jump rope/The rope got tangled around {his} legs/to the playground
        catch a ball/The ball bounced off {his} head/to the field
        whistle/Only air came out of {his} mouth/for a walk
        dance/{He} spun around and bumped into the wall/to the village hall
        ride a scooter/The scooter rolled into a bush/to the park
        row a boat/The boat went around and around in a circle/to the river
        juggle/All three balls dropped on the floor/to the circus
        do a cartwheel/{He} flopped over like a pancake/to the meadow
        play the flute/It squealed like a rusty door/to a concert
        paddle a canoe/The canoe drifted into the reeds/to the lake
    """,
    "noise": """
        Tap, tap, tap/a branch that touched the window
        Bang, bang/the garden gate that swung in the wind
        Squeak, squeak/a tiny mouse that was looking for cheese
        Scratch, scratch/a little {noisy} that wanted to come in
        Drip, drip, drip/the kitchen sink that was leaking
        Thump, thump/a plump {noisy} that had jumped on the roof
        Hoot, hoot/an owl that was singing to the moon
        Creak, creak/the old rocking chair in the hall
        Rattle, rattle/a hungry raccoon in the trash can
        Whoosh, whoosh/the curtain that danced in the wind
        Ribbit, ribbit/a lonely frog that sat in the watering can
        Clang, clang/a loose bucket that rolled across the yard
        Buzz, buzz/a lost bee that was stuck inside a lamp
    """,
    "open": """
        Once upon a time, there was {intro}.
        Once upon a time, {intro} lived {home}.
        Once there was {intro} who lived {home}.
        Once upon a time, {home}, there lived {intro}.
        There once was {intro} who loved to {hobby}.
        Long ago, {intro} lived {home}.
    """,
    "trait": """
        {He} loved to {hobby2}.
        Every day, {he} liked to {hobby2} and {hobby3}.
        {He} had [a big smile|bright eyes|a loud laugh] and a [kind|good|gentle|brave] heart.
        {hero} was always [kind|nice|friendly|polite] to everyone.
        More than anything, {he} loved to {hobby2}.
        Everyone [liked|loved] {hero} because {he} was so <kind>.
        {His} favorite food was {snack2}, and {his} favorite color was <color>.
        {He} was [not very big|a bit shy|very quiet], but {he} had a [brave|curious|gentle] heart.
    """,
    "see": """
        {He} saw <sight>.
        [First|Soon|Before long], {he} [saw|spotted|noticed] <sight> and <sight>.
        {hero} stopped to look at <sight>.
        "[Look|Wow|Oh]!" said {hero}. {He} pointed at <sight>.
        {He} even [waved at|smiled at|said hello to] <sight>.
    """,
    "see_way": """
        On the way, {he} saw <sight>.
        <see>
        On the way, they passed <sight>.
        {hero} counted <flyers> along the way.
        They walked past <sight> and <sight>.
    """,
    "sight": """
        [two|three|four|some|many] <flyers> [high in the sky|in a <big> tree|near <spot>]
        a <critter> [sleeping|sitting|hiding|eating|resting|looking for food] near <spot>
        some <color> <flowers> [by the path|next to <spot>|in the sun|under the <big> trees]
        a <color> <vehicle> [on the road|going down the hill|with <color> wheels|full of boxes]
        a cloud that looked like a <cloud>
        a <fur> <critter> with [a long tail|tiny spots|round eyes|dark stripes|muddy feet]
        [an old man|a woman|a farmer|a mailman|a baker|a painter|a fisherman] with a <color> hat
    """,
    "crying": """
        {He} started to cry.
        A tear rolled down {his} face.
        {His} eyes filled with tears.
        {He} sat down and did not know what to do.
        {He} wanted to cry, but {he} took a deep breath.
        {His} lip began to tremble.
    """,
    "hug": """
        {His} {parent} gave {him} a big hug.
        {hero} hugged {his} {parent} tightly.
        {His} {parent} held {his} {hand} and smiled.
        {hero} and {his} {parent} laughed together.
        {His} {parent} kissed {him} on the nose.
    """,
    "treat": """
        Then they [ate|had|shared] some <yum> {snack}.
        After that, they went home and ate {snack}.
        {His} {parent} gave them <yum> {snack} to eat.
        They sat under <spot> and ate {snack} and {snack2}.
        For [lunch|dinner], there was a big plate of <yum> {snack}.
    """,
    "oneday": """
        One {fine} {part}
        One {fine} {part}
        One day
        One day
        On a {fine} {part}
    """,
    "anyday": """
        One {day} {part}
        One {day} {part}
        One day
        One day
        On a {day} {part}
    """,
    "end": """
        {hero} went home with a big smile.
        That night, {hero} slept well and dreamed of {dream}.
        They all lived happily ever after.
        It was the best day ever.
        And so, {hero} was happy for the rest of the day.
        At bedtime, {hero} told {his} {parent} all about it again.
        When the [moon|first star] came out, {hero} closed {his} eyes and dreamed about {dream}.
        {hero} never forgot that day.
    """,
}
