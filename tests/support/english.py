"""Three English passages of a little over 200 tokens each: a story, a lesson and instructions."""

STORY = """The lighthouse stood at the end of a long spit of sand, and for most of the year nobody walked out to it.
In winter the waves came over the path and the keeper, an old man named Thomas, stayed inside with his books and his
radio. He had been there for thirty years, and he knew every ship that passed by the sound of its engine. One evening
in November, when the fog was so thick that he could not see the rocks below, he heard a sound that he did not know.
It was a low hum, like a choir singing far away, and it seemed to come from the water itself. He put down his cup of
tea, took his lantern, and went down the stairs. The door was heavy and the wind pushed against it, but he opened it
and stepped out into the dark. Somewhere in the fog a light was moving, slowly, from left to right, as if someone were
looking for something that had been lost."""

LESSON = """Photosynthesis is the process by which green plants, algae, and some bacteria convert light energy into
chemical energy. During photosynthesis, plants take in carbon dioxide from the air and water from the soil. Using the
energy of sunlight, they turn these into glucose, a sugar that serves as food for the plant, and release oxygen as a
by-product. The process takes place in the chloroplasts, which contain a green pigment called chlorophyll. Chlorophyll
absorbs light, mainly in the blue and red parts of the spectrum, and reflects green light, which is why leaves look
green to us. Photosynthesis has two main stages. In the light-dependent reactions, which happen in the thylakoid
membranes, the energy of light is captured and stored in the molecules ATP and NADPH. In the Calvin cycle, which
happens in the stroma, these molecules are used to turn carbon dioxide into glucose."""

INSTRUCTIONS = """To bake a simple loaf of bread you need only flour, water, salt, and yeast. Put five hundred grams of
flour into a large bowl, add two teaspoons of salt and one teaspoon of dry yeast, and mix them with your hand. Then add
three hundred and fifty millilitres of warm water and stir until there is no dry flour left. Cover the bowl with a
cloth and leave it in a warm place for about an hour, until the dough is twice as large as it was. Sprinkle some flour
on the table, turn the dough out, and fold it over itself a few times. Shape it into a ball, let it rest for another
thirty minutes, and heat the oven to two hundred and thirty degrees. Cut a cross into the top with a sharp knife, put
the loaf into the oven, and bake it for thirty-five minutes. It is done when it sounds hollow if you tap it from
below. Let it cool on a rack before you cut the first slice."""

ENGLISH = [text.replace("\n", " ") for text in (STORY, LESSON, INSTRUCTIONS)]
